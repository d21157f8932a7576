"""The index of a ``/lib/modules/VERSION`` folder, as depmod(8) writes it.

Debian makes it in the kernel package's postinst, which is not run here, and the program depmod is not on every host.
Not written: ``modules.symbols``, which only ``modprobe symbol:NAME`` reads.
Binary format: libkmod/libkmod-index.c of kmod, version 2.1.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass, field

from orchestrator.image.modules import Module, module_name

MAGIC = 0xB007F457
VERSION = 0x0002_0001
HAS_PREFIX, HAS_VALUES, HAS_CHILDREN = 0x8000_0000, 0x4000_0000, 0x2000_0000
BUILTIN_ALIAS = re.compile(rb"(?:^|(?<=\0))([\w-]+)\.alias=([^\0]*)")


@dataclass
class _Node:
    children: dict[int, _Node] = field(default_factory=dict)
    values: list[tuple[int, bytes]] = field(default_factory=list)


def index(entries: Iterable[tuple[str, str]]) -> bytes:
    """Return a binary index of (key, value) pairs, a radix tree; of equal keys the earlier goes first."""
    root = _Node()
    for priority, (key, value) in enumerate(entries):
        node = root
        for byte in key.encode():
            node = node.children.setdefault(byte, _Node())
        node.values.append((priority, value.encode()))
    out = bytearray(12)
    struct.pack_into(">III", out, 0, MAGIC, VERSION, _write_node(out, root))
    return bytes(out)


def _write_node(out: bytearray, node: _Node) -> int:
    """Append a node, its children before it, and return its offset with the flags of what it has."""
    prefix = bytearray()
    while len(node.children) == 1 and not node.values:
        byte, node = next(iter(node.children.items()))
        prefix.append(byte)
    first, last = (min(node.children), max(node.children)) if node.children else (0, -1)
    offsets = [_write_node(out, node.children[b]) if b in node.children else 0 for b in range(first, last + 1)]
    offset = len(out)
    if prefix:
        offset |= HAS_PREFIX
        out += prefix + b"\0"
    if node.children:
        offset |= HAS_CHILDREN
        out += struct.pack(f">BB{len(offsets)}I", first, last, *offsets)
    if node.values:
        offset |= HAS_VALUES
        out += struct.pack(">I", len(node.values))
        for priority, value in node.values:
            out += struct.pack(">I", priority) + value + b"\0"
    return offset


def normal_alias(alias: str) -> str:
    """Return an alias with ``-`` as ``_`` outside brackets: the kernel and modprobe do not tell them apart."""
    parts = re.split(r"(\[[^\]]*\])", alias)
    return "".join(part if part.startswith("[") else part.replace("-", "_") for part in parts)


def dependency_lines(modules: list[Module]) -> list[tuple[str, str]]:
    """Return (name, line of modules.dep) of each module: all it needs, what is loaded first at the end."""
    by_name = {module.name: module for module in modules}

    def visit(module: Module, order: dict[str, None]) -> None:
        for name in module.depends:
            needed = by_name.get(name)
            if needed is not None and needed.path not in order:
                visit(needed, order)
        order[module.path] = None

    lines = []
    for module in modules:
        order: dict[str, None] = {}
        visit(module, order)
        needed = [path for path in reversed(order) if path != module.path]
        lines.append((module.name, " ".join([f"{module.path}:", *needed])))
    return lines


def files(modules: list[Module], builtin: list[str], builtin_modinfo: bytes) -> dict[str, bytes]:
    """Return the index files by name, from the modules, the paths in modules.builtin, and modules.builtin.modinfo."""
    needs = dependency_lines(modules)
    aliases = [(normal_alias(alias), module.name) for module in modules for alias in module.aliases]
    builtin_aliases = [
        (normal_alias(alias.decode()), owner.decode().replace("-", "_"))
        for owner, alias in BUILTIN_ALIAS.findall(builtin_modinfo)
    ]
    softdeps = [f"softdep {module.name} {line}" for module in modules for line in module.softdeps]
    return {
        "modules.dep": _text(line for _, line in needs),
        "modules.dep.bin": index(needs),
        "modules.alias": _text(f"alias {alias} {name}" for alias, name in aliases),
        "modules.alias.bin": index(aliases),
        "modules.softdep": _text(softdeps),
        "modules.builtin.bin": index((module_name(path), "") for path in builtin),
        "modules.builtin.alias.bin": index(builtin_aliases),
        "modules.devname": _text(_device_nodes(modules)),
    }


def _device_nodes(modules: list[Module]) -> Iterable[str]:
    """Yield ``name node type major:minor`` of each module that a device node in /dev is to load."""
    for module in modules:
        node = next((a[8:] for a in module.aliases if a.startswith("devname:")), None)
        number = next((m for a in module.aliases if (m := re.fullmatch(r"(char|block)-major-(\d+)-(\d+)", a))), None)
        if node and number:
            yield f"{module.name} {node} {number[1][0]}{number[2]}:{number[3]}"


def _text(lines: Iterable[str]) -> bytes:
    return "".join(line + "\n" for line in lines).encode()
