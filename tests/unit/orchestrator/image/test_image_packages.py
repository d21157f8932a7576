"""Packages: control files, dpkg's database, and a real .deb where dpkg-deb is there to build one."""

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.image import packages
from orchestrator.image.packages import Unpacked
from orchestrator.image.tree import Tree
from protocol.errors import HostError

CONTROL = """\
Package: libx1
Architecture: riscv64
Multi-Arch: same
Version: 1:2.0-1
Maintainer: nobody <nobody@example.org>
Description: a library
 of which more
 .
 is to be said
"""


def test_parse_control_keeps_continuation_lines() -> None:
    fields = packages.parse_control(CONTROL)
    assert fields["Version"] == "1:2.0-1"
    assert fields["Description"] == "a library\n of which more\n .\n is to be said"


def test_database_name_has_the_architecture_where_several_may_be_installed() -> None:
    fields = packages.parse_control(CONTROL)
    assert Unpacked(fields, {}).database_name == "libx1:riscv64"
    assert Unpacked(fields | {"Multi-Arch": "foreign"}, {}).database_name == "libx1"


def test_status_of_a_package_with_a_script_is_unpacked() -> None:
    package = Unpacked(packages.parse_control(CONTROL), {"postinst": b"#!/bin/sh\n"})
    assert "Status: install ok unpacked\n" in packages.status_stanza(package, {})


def test_status_stanza_reads_back_as_the_same_fields() -> None:
    package = Unpacked(packages.parse_control(CONTROL), {})
    stanza = packages.status_stanza(package, {"/etc/x": "d41d8cd98f00b204e9800998ecf8427e"})
    fields = packages.parse_control(stanza)

    assert stanza.startswith("Package: libx1\nStatus: install ok installed\n")
    assert fields["Conffiles"] == "\n /etc/x d41d8cd98f00b204e9800998ecf8427e"
    assert fields.items() >= package.fields.items()


def test_conffiles_to_be_removed_are_none() -> None:
    package = Unpacked({"Package": "x"}, {"conffiles": b"/etc/a\nremove-on-upgrade /etc/b\n"})
    assert package.conffiles == ["/etc/a"]


def test_trigger_files_name_the_interested() -> None:
    libc = Unpacked({"Package": "libc-bin"}, {"triggers": b"# comment\ninterest-await ldconfig\n"})
    shells = Unpacked({"Package": "debianutils"}, {"triggers": b"interest-noawait /usr/share/shells.d # why\n"})
    other = Unpacked({"Package": "libx1"}, {"triggers": b"activate-noawait ldconfig\n"})

    assert packages.trigger_files([libc, shells, other]) == {
        "ldconfig": "libc-bin\n",
        "File": "/usr/share/shells.d debianutils/noawait\n",
    }


@pytest.fixture
def deb(tmp_path: Path) -> Path:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this host")
    root = tmp_path / "package"
    (root / "DEBIAN").mkdir(parents=True)
    (root / "DEBIAN/control").write_text(CONTROL)
    (root / "DEBIAN/conffiles").write_text("/etc/x.conf\n")
    (root / "etc").mkdir()
    (root / "etc/x.conf").write_text("x\n")
    (root / "usr/bin").mkdir(parents=True)
    (root / "usr/bin/su").write_bytes(b"program")
    (root / "usr/bin/su").chmod(0o4755)
    (root / "usr/bin/sg").symlink_to("su")
    path = tmp_path / "libx1.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", root, path], check=True, capture_output=True)
    return path


def test_unpack_lays_down_files_and_registers_them(deb: Path, tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    package = packages.unpack(deb, tree)
    packages.register([package], tree)

    entry = tree.entries["usr/bin/su"]
    assert (entry.mode & 0o7777, entry.uid, entry.gid) == (0o4755, 0, 0)
    assert tree.entries["usr/bin/sg"].target == "su"
    assert "/usr/bin/su" in tree.read_text("var/lib/dpkg/info/libx1:riscv64.list").splitlines()
    assert "/etc/x.conf 401b30e3b8b5d629635a5c613cdb7919" in tree.read_text("var/lib/dpkg/status")


def test_damaged_package_raises_with_its_name(tmp_path: Path) -> None:
    if shutil.which("dpkg-deb") is None:
        pytest.skip("no dpkg-deb on this host")
    path = tmp_path / "broken_1_all.deb"
    path.write_bytes(b"!<arch>\nnothing")
    with pytest.raises(HostError, match=r"broken_1_all\.deb is damaged"):
        packages.unpack(path, Tree(tmp_path / "root"))
