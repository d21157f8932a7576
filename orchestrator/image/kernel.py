"""Debian's kernel package: the kernel as it is, its modules with an index, and those the initramfs carries."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from orchestrator.image import depmod, initramfs, modules
from orchestrator.image.apt import Package
from orchestrator.image.packages import open_tar
from orchestrator.image.progress import Progress
from orchestrator.image.tree import Tree
from protocol.errors import HostError

MODULES_ROOT = "usr/lib/modules"


@dataclass(frozen=True)
class Kernel:
    """What was taken from a kernel package: its version and the modules for the initramfs, loadable in this order."""

    version: str
    initramfs_modules: list[tuple[str, str, bytes]]


def unpack(package: Package, tree: Tree, image: Path, index_cache: Path, progress: Progress) -> Kernel:
    """Write the kernel to ``image``, its modules and configuration to ``tree``; the device trees of boards stay out.

    Raises HostError if the package is not what this code knows.
    """
    version = ""
    for member, data in open_tar(package.path, "fsys"):
        path = member.name.removeprefix("./").strip("/")
        if data is not None and path.startswith(("boot/vmlinuz-", "boot/vmlinux-")):
            version = path.partition("-")[2]
            with image.open("xb") as out:
                shutil.copyfileobj(data, out, 1 << 20)
        elif data is not None and path.startswith((f"{MODULES_ROOT}/", "lib/modules/", "boot/config-")):
            tree.add_file(path, data, mtime=int(member.mtime))
    folder = f"{MODULES_ROOT}/{version}"
    if not version or tree.get(folder) is None:
        raise HostError(
            f"the package {package.name} has no kernel or no modules where Debian 13 keeps them",
            hint="this build knows the kernel packages of Debian 13, --suite trixie",
        )
    builtin = tree.read_text(f"{folder}/modules.builtin").split()
    _index(package, tree, folder, builtin, index_cache, progress)
    return Kernel(version, _for_initramfs(tree, folder, builtin))


def _paths(tree: Tree, folder: str) -> list[str]:
    """Return the paths of all modules, in the order of modules.order and so the same on every build."""
    place = {path: at for at, path in enumerate(tree.read_text(f"{folder}/modules.order").split())}
    prefix = f"{folder}/"
    modules_only = (path for path in tree.entries if path.startswith(f"{prefix}kernel/") and ".ko" in path)
    found = [path.removeprefix(prefix) for path in modules_only]
    return sorted(found, key=lambda path: (place.get(path.partition(".ko")[0] + ".ko", len(place)), path))


def _index(
    package: Package, tree: Tree, folder: str, builtin: list[str], index_cache: Path, progress: Progress
) -> None:
    """Add depmod's files; they are kept for the next build, as all 3 000 modules must be decompressed for them."""
    cached = index_cache / package.path.stem
    if not cached.is_dir():
        paths = _paths(tree, folder)
        progress.step(f"indexing {len(paths)} kernel modules")
        found = modules.parse_all(
            paths, lambda path: tree.read(f"{folder}/{path}"), lambda done: progress.at(done, len(paths))
        )
        contents = depmod.files(found, builtin, tree.read(f"{folder}/modules.builtin.modinfo"))
        _keep(contents, cached)
    for path in sorted(cached.iterdir()):
        tree.add_file(f"{folder}/{path.name}", path.read_bytes())


def _keep(contents: dict[str, bytes], folder: Path) -> None:
    """Write the files of a cache folder so that it is whole or absent, whoever else does the same now."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as made:
        new = Path(made) / "index"
        new.mkdir()
        for name, content in contents.items():
            (new / name).write_bytes(content)
        try:
            os.rename(new, folder)
        except OSError:
            if not folder.is_dir():
                raise


def _for_initramfs(tree: Tree, folder: str, builtin: list[str]) -> list[tuple[str, str, bytes]]:
    """Return (file name, modalias it is for, ELF) of the initramfs' modules in the order of loading."""
    lines = tree.read_text(f"{folder}/modules.dep").splitlines()
    chains = [line.replace(":", "", 1).split() for line in lines]
    needs = {modules.module_name(chain[0]): chain for chain in chains}
    built = {modules.module_name(path) for path in builtin}
    found: dict[str, tuple[str, str, bytes]] = {}
    for wanted, kind in initramfs.MODULES:
        elf = {path: modules.decompress(path, tree.read(f"{folder}/{path}")) for path in needs.get(wanted, [])}
        try:
            order = modules.load_order([wanted], [modules.parse(path, data) for path, data in elf.items()], built)
        except KeyError as error:
            raise HostError(
                f"the kernel has no module {error.args[0]}, which the initramfs needs", hint="--suite trixie has it"
            ) from None
        for module in order:
            found.setdefault(module.name, (f"{module.name}.ko", kind, elf[module.path]))
    return list(found.values())
