"""Kernel modules: what each says about itself, and the order to load them in.

All that is needed stands in each module's ``.modinfo`` section: ``depends=``, ``softdep=`` and ``alias=``. A module is
one file of ``/lib/modules/VERSION``, compressed as Debian packages it.
"""

from __future__ import annotations

import lzma
import re
import struct
import zlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

MODINFO = re.compile(rb"(?<=\0)(depends|softdep|alias)=([^\0]*)")


@dataclass(frozen=True)
class Module:
    """One loadable module: ``path`` is relative to /lib/modules/VERSION."""

    name: str
    path: str
    depends: tuple[str, ...] = ()
    before: tuple[str, ...] = ()  # softdep "pre:", names or aliases
    aliases: tuple[str, ...] = ()
    softdeps: tuple[str, ...] = ()  # as written, for modules.softdep


def module_name(path: str) -> str:
    """Return the name of the module in a file: ``virtio-rng.ko.xz`` is ``virtio_rng``."""
    return path.rpartition("/")[2].partition(".ko")[0].replace("-", "_")


def decompress(path: str, data: bytes) -> bytes:
    """Return the plain ELF file of a module, which may be compressed with xz or gzip."""
    if path.endswith(".xz"):
        return lzma.decompress(data)
    if path.endswith(".gz"):
        return zlib.decompress(data, 31)
    return data


def parse(path: str, elf: bytes) -> Module:
    """Return what a module says about itself."""
    found: dict[bytes, list[str]] = {b"depends": [], b"softdep": [], b"alias": []}
    for key, value in MODINFO.findall(_modinfo(elf)):
        found[key].append(value.decode("utf-8", "replace"))
    depends = [name.replace("-", "_") for line in found[b"depends"] for name in line.split(",") if name]
    before: list[str] = []
    for line in found[b"softdep"]:
        match = re.search(r"pre:\s*([^:]*?)(?:\s+post:|$)", line)
        before += match[1].split() if match else []
    return Module(
        module_name(path), path, tuple(depends), tuple(before), tuple(found[b"alias"]), tuple(found[b"softdep"])
    )


def _modinfo(elf: bytes) -> bytes:
    """Return the ``.modinfo`` section, a NUL first, or nothing if ``elf`` has none (ELF64, little-endian)."""
    if elf[:6] != b"\x7fELF\x02\x01":
        return b""
    table, size, count, names_at = struct.unpack_from("<Q10xHHH", elf, 0x28)
    headers = [struct.unpack_from("<IIQQQQ", elf, table + size * at) for at in range(count)]
    names = headers[names_at]
    for header in headers:
        start = names[4] + header[0]
        if elf[start : start + 9] == b".modinfo\0":
            return b"\0" + elf[header[4] : header[4] + header[5]]
    return b""


def parse_all(paths: Iterable[str], read: Callable[[str], bytes], report: Callable[[int], None]) -> list[Module]:
    """Parse every module; lzma leaves Python's lock, so two threads nearly halve the time."""

    def one(path: str) -> Module:
        return parse(path, decompress(path, read(path)))

    modules = []
    with ThreadPoolExecutor(2) as pool:
        for module in pool.map(one, paths):
            modules.append(module)
            report(len(modules))
    return modules


def load_order(wanted: Iterable[str], modules: Iterable[Module], builtin: set[str]) -> list[Module]:
    """Return ``wanted`` and all they need, each after what it needs; what is built in is left out.

    Raises KeyError with the name of a wanted or needed module which the kernel does not have.
    """
    by_name = {module.name: module for module in modules}
    by_alias = {alias: module.name for module in by_name.values() for alias in module.aliases}
    order: dict[str, Module] = {}

    def visit(name: str) -> None:
        name = name.replace("-", "_")
        if name in builtin or name in order:
            return
        module = by_name[name]
        for soft in module.before:
            found = soft.replace("-", "_") if soft.replace("-", "_") in by_name else by_alias.get(soft)
            if found is not None and found != name:  # a soft dependency may be missing
                visit(found)
        for needed in module.depends:
            visit(needed)
        order[name] = module

    for name in wanted:
        visit(name)
    return list(order.values())
