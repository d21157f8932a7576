"""The recipe of a Debian machine: which packages, and in which order the parts are made.

`build_debian` is the whole of it; a command line or a test calls it. Everything is made in a folder beside the
results, and only what is complete takes its name: an interrupted build leaves the results of the one before.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from orchestrator.image import apt, ext4, guest, initramfs, kernel, packages, programs, sources
from orchestrator.image.progress import Progress
from orchestrator.image.tree import Tree
from protocol.errors import ConfigError, HostError

PATTERNS = ("?essential", "?priority(required)")
PACKAGES = (
    "systemd-sysv", "udev", "apt", "iproute2", "pciutils", "procps", "kmod", "netbase", "less", "iputils-ping",
    "dropbear-bin",
)  # fmt: skip
KERNEL = "linux-image-riscv64"
RESULTS = ("vmlinuz", "initrd.img", "root.ext4")

VM_TOML = """\
# Debian {suite}, Linux {kernel}. Log in as root with the password {password}.
# Start it with: orchestrator up vm.toml
[vm]
name = "debian"
memory = "512M"

[boot]
kernel = "vmlinuz"
initrd = "initrd.img"
cmdline = "console=ttyS0 root=/dev/vda rw {options}"

[[device]]
id = "disk0"
type = "virtio-blk"
image = "root.ext4"

# A network without privileges; from the host: ssh -p 2222 root@127.0.0.1
[[device]]
id = "net0"
type = "virtio-net"
backend = "user"
forward = ["tcp:127.0.0.1:2222:22"]
"""


@dataclass(frozen=True)
class Image:
    """What a build made."""

    folder: Path
    kernel_version: str
    packages: int
    unconfigured: int


def build_debian(
    output: Path,
    *,
    include: Sequence[str] = (),
    size: int = 1 << 30,
    suite: str = sources.DEFAULT_SUITE,
    mirror: str | None = None,
    first_boot: bool = False,
    refresh: bool = False,
    progress: Progress | None = None,
) -> Image:
    """Build a Debian machine into the folder ``output``: vmlinuz, initrd.img, root.ext4 and vm.toml.

    Raises ConfigError or HostError; nothing unfinished stays behind.
    """
    progress = progress or Progress()
    for program in ("apt-get", "dpkg-deb", "mke2fs", "debugfs"):
        programs.find(program)
    _make_folder(output)
    try:
        with tempfile.TemporaryDirectory(prefix=".busvm-image-", dir=output) as folder:
            work = Path(folder)
            image = _build(work, output, include, size, suite, mirror, first_boot, refresh, progress)
            for name in RESULTS:
                os.replace(work / name, output / name)
    except OSError as error:
        if error.errno in {errno.ENOSPC, errno.EDQUOT}:
            raise HostError(f"no space left on the disk of {output}", hint="a build takes 600 MB") from error
        place = error.filename or output
        raise HostError(f"{place}: {error.strerror}", hint="-o and XDG_CACHE_HOME say where a build writes") from error
    finally:
        progress.clear()
    _write_configuration(output, suite, image.kernel_version, progress)
    return image


def _build(
    work: Path,
    output: Path,
    include: Sequence[str],
    size: int,
    suite: str,
    mirror: str | None,
    first_boot: bool,
    refresh: bool,
    progress: Progress,
) -> Image:
    mirror = mirror or sources.debian_mirror(sources.read())
    cache = apt.cache_folder()
    manager = apt.Apt(cache / suite, mirror, suite, sources.keyring(), progress)
    with manager.locked():
        manager.update(force=refresh)
        progress.step("downloading the packages that are not in the cache")
        try:
            chosen = manager.install_set([*PATTERNS, *PACKAGES], include)
        except apt.Outdated:  # lists of yesterday, and newer packages since
            manager.update(force=True)
            chosen = manager.install_set([*PATTERNS, *PACKAGES], include)
        kernel_package = manager.download(manager.kernel_package(KERNEL))
        busybox_package = manager.download("busybox-static")

    tree = Tree(work / "root", mtime=initramfs.source_date())
    progress.step(f"unpacking {len(chosen)} packages")
    chosen.sort(key=lambda package: package.name != "base-files")  # its links /bin, /lib and /sbin go first
    unpacked = []
    for done, package in enumerate(chosen):
        progress.at(done, len(chosen), package.name)
        unpacked.append(packages.unpack(package.path, tree))

    progress.step(f"unpacking the kernel, {kernel_package.name} {kernel_package.version}")
    linux = kernel.unpack(kernel_package, tree, work / "vmlinuz", cache / "depmod", progress)
    busybox = _read_file(busybox_package, "usr/bin/busybox")
    (work / "initrd.img").write_bytes(initramfs.build(busybox, linux.initramfs_modules))

    progress.step("configuring the guest")
    guest.configure(tree, unpacked, mirror, suite, first_boot=first_boot)
    packages.register(unpacked, tree)

    progress.step(f"making root.ext4, {len(tree.entries)} files")
    ext4.make(tree, work / "root.ext4", size, label="busvm-root")
    shutil.rmtree(work / "root")
    return Image(output, linux.version, len(unpacked), sum("postinst" in p.control for p in unpacked))


def _make_folder(output: Path) -> None:
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(
            f"the output folder {output} cannot be made: {error.strerror}", hint="choose another folder with -o"
        ) from error
    if not os.access(output, os.W_OK | os.X_OK):
        raise ConfigError(f"the output folder {output} is not writable", hint="choose another folder with -o")


def _read_file(package: apt.Package, path: str) -> bytes:
    """Return one file of a package."""
    found: bytes | None = None
    for member, data in packages.open_tar(package.path, "fsys"):
        if data is not None and member.name.removeprefix("./") == path:
            found = data.read()
    if found is None:
        raise HostError(f"the package {package.name} has no /{path}", hint="--suite trixie has it")
    return found


def _write_configuration(output: Path, suite: str, kernel_version: str, progress: Progress) -> None:
    """Write vm.toml, unless there is one: it may have been edited."""
    path = output / "vm.toml"
    if path.exists():
        progress.step(f"{path} is there already and stays as it is")
        return
    text = VM_TOML.format(suite=suite, kernel=kernel_version, password=guest.PASSWORD, options=guest.KERNEL_OPTIONS)
    path.write_text(text, encoding="utf-8")
