"""Sizes, and a small ext4 image whose owners are looked up with debugfs."""

import shutil
import subprocess
from pathlib import Path

import pytest

from orchestrator.image import ext4, programs
from orchestrator.image.tree import Tree
from protocol.errors import ConfigError, HostError


@pytest.mark.parametrize(
    ("text", "size"),
    [("1G", 1 << 30), ("512M", 512 << 20), ("1.5g", 3 << 29), ("600MiB", 600 << 20), ("67108864", 64 << 20)],
)
def test_image_size(text: str, size: int) -> None:
    assert ext4.image_size(text) == size


@pytest.mark.parametrize("text", ["", "big", "1X", "-1G", "1 G G", "4K", "0"])
def test_image_size_of_nonsense_raises(text: str) -> None:
    with pytest.raises(ConfigError):
        ext4.image_size(text)


def test_needed_size_counts_a_hard_link_once(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    tree.add_file("a", bytes(100 << 20))
    once = ext4.needed_size(tree)
    tree.add_hard_link("b", "a")
    assert ext4.needed_size(tree) == once > 100 << 20


def test_make_too_small_says_the_size(tmp_path: Path) -> None:
    tree = Tree(tmp_path / "root")
    tree.add_file("a", bytes(100 << 20))
    with pytest.raises(ConfigError, match=r"at least 1\d\dM"):
        ext4.make(tree, tmp_path / "image", 64 << 20, "x")


def test_make_gives_root_everything_but_what_is_others(tmp_path: Path) -> None:
    if shutil.which("mke2fs", path="/usr/sbin:/sbin:/usr/bin") is None:
        pytest.skip("no mke2fs on this host")
    tree = Tree(tmp_path / "root")
    tree.add_file("bin/su", b"x", 0o4755)
    tree.add_file("etc/shadow", b"x", 0o640, gid=42)
    tree.add_file("a name with spaces", b"x", 0o600, uid=1000, gid=100)
    tree.add_directory("tmp", 0o1777)
    tree.add_symlink("link", "bin/su")
    image = tmp_path / "image"
    ext4.make(tree, image, 64 << 20, "test")

    def facts(path: str) -> str:
        command = [programs.find("debugfs"), "-R", f'stat "{path}"', str(image)]
        text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        words = text.replace(":", ": ").split()
        return " ".join(words[words.index(key) + 1] for key in ("Type:", "Mode:", "User:", "Group:"))

    assert facts("/bin/su") == "regular 04755 0 0"
    assert facts("/etc/shadow") == "regular 0640 0 42"
    assert facts("/a name with spaces") == "regular 0600 1000 100"
    assert facts("/tmp") == "directory 01777 0 0"
    assert facts("/link") == "symlink 0777 0 0"
    assert facts("/") == "directory 0755 0 0"
    assert image.stat().st_blocks * 512 < 16 << 20  # sparse


def test_missing_program_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nonexistent")
    monkeypatch.setattr(programs, "SYSTEM_FOLDERS", ())
    with pytest.raises(HostError, match="mke2fs is missing") as caught:
        programs.find("mke2fs")
    assert caught.value.hint is not None
    assert "e2fsprogs" in caught.value.hint
