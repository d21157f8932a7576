"""What to boot, as the CPU process is told: frozen values, and the ``key=value,…`` texts of repeated options."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from protocol.errors import ConfigError


@dataclass(frozen=True)
class Load:
    """Something put into memory beside kernel and firmware (QEMU's generic and guest loaders).

    One of ``file``, ``value``, ``kernel`` and ``initrd``, or none and a ``cpu`` that begins at ``address``.
    """

    name: str
    address: int | None = None
    file: Path | None = None
    value: int | None = None
    size: int = 0
    force_raw: bool = False
    cpu: int | None = None
    kernel: Path | None = None
    initrd: Path | None = None
    bootargs: str = ""


@dataclass(frozen=True)
class BootConfig:
    """What to boot. ``files`` are fw_cfg's, by name."""

    kernel: Path | None
    initrd: Path | None = None
    cmdline: str = ""
    firmware: Path | None = None
    dtb: Path | None = None
    flash: tuple[Path | None, Path | None] = (None, None)
    loads: tuple[Load, ...] = ()
    files: tuple[tuple[str, Path | str], ...] = ()


def pairs(option: str, text: str, known: Iterable[str]) -> dict[str, str]:
    """Split ``key=value,key=value``; a comma within a value is written twice, a key alone is ``key=true``.

    Raises:
        ConfigError: a key is unknown or there twice.
    """
    found: dict[str, str] = {}
    for word in text.replace(",,", "\0").split(","):
        key, _, value = word.replace("\0", ",").partition("=")
        if key not in known or key in found:
            what = "is there twice" if key in found else f"is none of {', '.join(known)}"
            raise ConfigError(f"{option} {text}: {key!r} {what}", hint="a comma within a value is written twice")
        found[key] = value if "=" in word else "true"
    return found


def _number(option: str, text: str, key: str) -> int:
    try:
        return int(text, 0)
    except ValueError:
        raise ConfigError(f"{option}: {key}={text} is no number", hint="such as 4096 or 0x80200000") from None


_LOAD_KEYS = ("file", "address", "value", "size", "force-raw", "cpu", "kernel", "initrd", "bootargs")


def load(number: int, text: str) -> Load:
    """Return the ``--load`` of this number, counted from 1.

    Raises:
        ConfigError: it makes no sense.
    """
    option = f"--load {number}"
    found = pairs(option, text, _LOAD_KEYS)
    sources = [key for key in ("file", "value", "kernel", "initrd") if key in found]
    path = next((Path(found[key]) for key in sources if key != "value"), None)
    name = f"load {number}" + (f" ({path.name})" if path else "")
    if len(sources) > 1 or (not sources and "cpu" not in found):
        raise ConfigError(f"{name}: one of file, value, kernel, initrd, or a cpu that begins at address")
    source = sources[0] if sources else "cpu"
    for key, fits in _FITTING.items():
        if key in found and source not in fits:
            raise ConfigError(f"{name}: {key} does not go with {source}", hint=f"it goes with {', '.join(fits)}")
    numbers = {key: _number(option, found[key], key) for key in ("address", "value", "size", "cpu") if key in found}
    if source != "file" and "address" not in found:
        raise ConfigError(f"{name}: address is missing", hint="only an ELF file has one of its own")
    size = numbers.get("size", 0)
    if source == "value" and not (1 <= size <= 8 and 0 <= numbers["value"] < 1 << 8 * size):
        raise ConfigError(f"{name}: value {found['value']} has no size of 1 to 8 bytes that holds it")
    return Load(
        name=name,
        address=numbers.get("address"),
        file=path if source == "file" else None,
        value=numbers.get("value"),
        size=size,
        force_raw=found.get("force-raw", "false") == "true",
        cpu=numbers.get("cpu"),
        kernel=path if source == "kernel" else None,
        initrd=path if source == "initrd" else None,
        bootargs=found.get("bootargs", ""),
    )


_FITTING = {"size": ("value",), "force-raw": ("file",), "cpu": ("file", "cpu"), "bootargs": ("kernel",)}


def fw_cfg_file(text: str) -> tuple[str, Path | str]:
    """Return name and content of a ``--fw-cfg``.

    Raises:
        ConfigError: it makes no sense.
    """
    found = pairs("--fw-cfg", text, ("name", "file", "string"))
    name = found.get("name", "")
    if not 0 < len(name) < 56 or not name.isascii() or ("file" in found) == ("string" in found):
        raise ConfigError(
            f"--fw-cfg {text}: a name of up to 55 ASCII characters, and one of file and string",
            hint="such as name=opt/org.example/key,string=value",
        )
    return name, Path(found["file"]) if "file" in found else found["string"]
