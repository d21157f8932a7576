"""The embedded guest: the program a machine runs when it is given no kernel (see ``guest/README.md``)."""

from pathlib import Path

__all__ = ["elf_path"]


def elf_path() -> Path:
    """Return the path of ``guest.elf``, linked at 0x80200000, entered in S-mode like a Linux kernel."""
    return Path(__file__).with_name("guest.elf")
