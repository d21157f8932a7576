"""Takes ``.deb`` files apart and lays them into a `Tree` as dpkg's unpack step would, database included.

Maintainer scripts are not run: they are the guest's code. Packages that have a ``postinst`` are registered as
``unpacked``, so that ``dpkg --configure -a`` in the guest runs it; the others have nothing left to do and are
``installed``. Database format: dpkg(1), deb-triggers(5) and the files dpkg itself writes in /var/lib/dpkg.
"""

from __future__ import annotations

import hashlib
import io
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from orchestrator.image import programs
from orchestrator.image.tree import Tree
from protocol.errors import HostError

INFO = "var/lib/dpkg/info"
TRIGGERS = "var/lib/dpkg/triggers"


@dataclass(frozen=True)
class Unpacked:
    """A package whose files are in the tree: its control fields and its control files (scripts, triggers, …)."""

    fields: dict[str, str]
    control: dict[str, bytes]

    @property
    def name(self) -> str:
        """The package's name."""
        return self.fields["Package"]

    @property
    def database_name(self) -> str:
        """The name under which dpkg keeps its files: with the architecture if several may be installed at once."""
        if self.fields.get("Multi-Arch") == "same":
            return f"{self.name}:{self.fields['Architecture']}"
        return self.name

    @property
    def postinst(self) -> str:
        """The script to be run after unpacking, or nothing."""
        return self.control.get("postinst", b"").decode("utf-8", "replace")

    @property
    def conffiles(self) -> list[str]:
        """The configuration files, absolute; those a package asks to have removed are left out."""
        lines = self.control.get("conffiles", b"").decode().splitlines()
        return [line.strip() for line in lines if line.startswith("/")]


def parse_control(text: str) -> dict[str, str]:
    """Return the fields of one control stanza; continuation lines stay in their value."""
    fields: dict[str, str] = {}
    name = ""
    for line in text.splitlines():
        if line[:1] in {" ", "\t"} and name:
            fields[name] += "\n" + line
        elif ":" in line:
            name, _, value = line.partition(":")
            fields[name] = value.strip()
    return fields


def open_tar(deb: Path, part: str) -> Iterator[tuple[tarfile.TarInfo, IO[bytes] | None]]:
    """Yield the members of a package's ``fsys`` or ``ctrl`` archive, whatever it is compressed with.

    Raises HostError if the file is damaged.
    """
    command = [programs.find("dpkg-deb"), f"--{part}-tarfile", str(deb)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            with tarfile.open(fileobj=process.stdout, mode="r|") as archive:
                for member in archive:
                    yield member, archive.extractfile(member) if member.isreg() else None
            process.stdout.read()
        except tarfile.TarError:
            process.kill()
            raise _damaged(deb) from None
        process.stderr.read()
    if process.returncode != 0:
        raise _damaged(deb)


def _damaged(deb: Path) -> HostError:
    return HostError(f"the package file {deb.name} is damaged", hint=f"remove {deb} and build again")


def read_control(deb: Path) -> Unpacked:
    """Return a package's control information."""
    control = {
        member.name.removeprefix("./"): data.read() for member, data in open_tar(deb, "ctrl") if data is not None
    }
    return Unpacked(parse_control(control.pop("control").decode("utf-8", "replace")), control)


def unpack(deb: Path, tree: Tree) -> Unpacked:
    """Lay the files of a package into ``tree`` and register it; returns what was registered."""
    package = read_control(deb)
    listed = ["/."]
    for member, data in open_tar(deb, "fsys"):
        path = member.name.removeprefix("./").strip("/")
        if path in {"", "."}:
            continue
        listed.append("/" + path)
        _add_member(tree, path, member, data)
    base = f"{INFO}/{package.database_name}"
    tree.add_file(f"{base}.list", "\n".join(listed) + "\n")
    for name, content in package.control.items():
        script = name in {"preinst", "postinst", "prerm", "postrm", "config"}
        tree.add_file(f"{base}.{name}", content, 0o755 if script else 0o644)
    return package


def _add_member(tree: Tree, path: str, member: tarfile.TarInfo, data: IO[bytes] | None) -> None:
    mode = member.mode & 0o7777
    if member.isdir():
        tree.add_directory(path, mode, member.uid, member.gid)
    elif member.issym():
        tree.add_symlink(path, member.linkname, member.uid, member.gid)
    elif member.islnk():
        tree.add_hard_link(path, member.linkname)
    elif data is not None:
        tree.add_file(path, data, mode, member.uid, member.gid, int(member.mtime))
    else:
        raise HostError(f"/{path} in a package is a device node, which busvm does not lay down")


def status_stanza(package: Unpacked, conffile_sums: dict[str, str]) -> str:
    """Return the package's stanza of /var/lib/dpkg/status."""
    state = "unpacked" if "postinst" in package.control else "installed"
    fields = {"Package": package.name, "Status": f"install ok {state}"}
    fields |= {name: value for name, value in package.fields.items() if name not in {"Package", "Description"}}
    if conffile_sums:
        fields["Conffiles"] = "".join(f"\n {path} {md5}" for path, md5 in conffile_sums.items())
    if "Description" in package.fields:
        fields["Description"] = package.fields["Description"]
    return "".join(f"{name}:{'' if value.startswith(chr(10)) else ' '}{value}\n" for name, value in fields.items())


def trigger_files(packages: list[Unpacked]) -> dict[str, str]:
    """Return the files of /var/lib/dpkg/triggers that say which package is interested in what."""
    named: dict[str, list[str]] = {}
    paths: list[str] = []
    for package in packages:
        for line in package.control.get("triggers", b"").decode("utf-8", "replace").splitlines():
            words = line.split("#")[0].split()
            if len(words) != 2 or not words[0].startswith("interest"):
                continue
            who = package.name + ("/noawait" if words[0].endswith("noawait") else "")
            if words[1].startswith("/"):
                paths.append(f"{words[1]} {who}")
            else:
                named.setdefault(words[1], []).append(who)
    files = {name: "\n".join(interested) + "\n" for name, interested in named.items()}
    files["File"] = "".join(line + "\n" for line in paths)
    return files


def register(packages: list[Unpacked], tree: Tree) -> None:
    """Write dpkg's database for the packages already unpacked into ``tree``."""
    status = io.StringIO()
    for package in packages:
        sums = {
            path: hashlib.md5(tree.read(path), usedforsecurity=False).hexdigest()
            for path in package.conffiles
            if tree.exists(path)
        }
        status.write(status_stanza(package, sums) + "\n")
    tree.add_file("var/lib/dpkg/status", status.getvalue())
    tree.add_file("var/lib/dpkg/available", "")
    tree.add_file("var/lib/dpkg/statoverride", "")
    tree.add_file(f"{INFO}/format", "1\n")
    for name in ("updates", "parts", "alternatives"):
        tree.add_directory(f"var/lib/dpkg/{name}")
    for name, content in trigger_files(packages).items():
        tree.add_file(f"{TRIGGERS}/{name}", content)
    tree.add_file(f"{TRIGGERS}/Unincorp", "")
    tree.add_file(f"{TRIGGERS}/Lock", "")
