"""The command ``orchestrator image``: its arguments, and what it prints."""

from __future__ import annotations

import argparse
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from orchestrator.image.progress import Progress
from orchestrator.image.sources import DEFAULT_SUITE
from protocol.errors import ConfigError


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give ``parser`` the kinds of images as sub-commands."""
    kinds = parser.add_subparsers(dest="kind", metavar="KIND", required=True)
    one = kinds.add_parser(
        "debian",
        help="Debian for riscv64: kernel, initramfs, root file system and vm.toml",
        description="Build a Debian machine for riscv64. Needs apt, dpkg and e2fsprogs, and no privileges.",
    )
    one.add_argument("-o", "--output", metavar="DIR", type=Path, required=True, help="folder for the results")
    one.add_argument("--include", metavar="PKG", nargs="+", action="extend", default=[], help="more packages, by name")
    one.add_argument("--size", default="1G", help="size of the root file system (%(default)s); the file is sparse")
    one.add_argument("--suite", default=DEFAULT_SUITE, help="Debian release (%(default)s)")
    one.add_argument("--mirror", metavar="URI", help="Debian mirror; the default is the one this host's apt uses")
    one.add_argument(
        "--configure",
        choices=("manual", "first-boot"),
        default="manual",
        help="run the packages' own scripts at first boot, which takes minutes, or leave it to you (%(default)s)",
    )
    one.add_argument("--refresh", action="store_true", help="look for new packages even if the lists are recent")
    one.add_argument("--force", action="store_true", help="replace an image that is in DIR already")
    one.add_argument("-q", "--quiet", action="store_true", help="no progress, only errors")


def run(args: argparse.Namespace) -> int:
    """Build what was asked for; returns the exit status.

    Raises ConfigError or HostError, which the command line prints.
    """
    from orchestrator.image import debian, ext4, guest  # here, for a command line that starts faster without

    size = ext4.image_size(args.size)
    root = args.output / "root.ext4"
    if root.exists() and not args.force:
        raise ConfigError(f"{root} is there already, with what a guest may have written", hint="--force replaces it")
    started = time.monotonic()
    with _terminating_cleanly():
        image = debian.build_debian(
            args.output,
            include=_names(args.include),
            size=size,
            suite=args.suite,
            mirror=args.mirror,
            first_boot=args.configure == "first-boot",
            refresh=args.refresh,
            progress=Progress(quiet=args.quiet),
        )
    if not args.quiet:
        seconds = time.monotonic() - started
        lines = [
            f"Debian {args.suite} with Linux {image.kernel_version} and {image.packages} packages, in {seconds:.0f} s",
            f"start:  orchestrator up {args.output / 'vm.toml'}",
            f"log in: root, password {guest.PASSWORD}",
        ]
        if args.configure == "manual":
            lines.append(f"the setup scripts of {image.unconfigured} packages: dpkg --configure -a in the guest")
        sys.stderr.write("\n".join(lines) + "\n")
    return 0


def _names(words: list[str]) -> list[str]:
    """Return package names; ``--include a,b`` means the same as ``--include a b``."""
    names = [name for word in words for name in word.split(",") if name]
    for name in names:
        if not name[0].isalnum() or not all(c.isalnum() or c in "+-.:" for c in name):
            raise ConfigError(f"--include: {name!r} is no package name", hint="names as apt has them, such as ethtool")
    return names


@contextmanager
def _terminating_cleanly() -> Iterator[None]:
    """Make SIGTERM and SIGHUP end the build like Ctrl-C does, so that it takes its folder away."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    for number, handler in before.items():
        if handler is not signal.SIG_IGN:  # as under nohup
            signal.signal(number, interrupt)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
