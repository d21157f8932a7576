"""The tree: links are followed inside it, and never on the host."""

import os
from pathlib import Path

import pytest

from orchestrator.image.tree import Tree
from protocol.errors import ConfigError


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path / "root", mtime=1000)
    made.add_directory("usr/bin")
    made.add_symlink("bin", "usr/bin")
    return made


def test_file_through_a_linked_directory_lands_behind_the_link(tree: Tree) -> None:
    tree.add_file("bin/su", b"x", 0o4755)

    assert tree.entries["usr/bin/su"].mode & 0o7777 == 0o4755
    assert (tree.staging / "usr/bin/su").read_bytes() == b"x"
    assert tree.read("/bin/su") == b"x"


def test_absolute_link_stays_inside_the_tree(tree: Tree) -> None:
    tree.add_symlink("etc/out", "/usr/bin")
    tree.add_file("etc/out/x", "here")

    assert tree.read_text("usr/bin/x") == "here"
    assert not Path("/usr/bin/x").exists()


def test_parent_of_the_root_is_the_root(tree: Tree) -> None:
    tree.add_file("../../../escaped", "x")
    assert "escaped" in tree.entries


def test_circular_links_raise(tree: Tree) -> None:
    tree.add_symlink("a", "b")
    tree.add_symlink("b", "a")
    with pytest.raises(ConfigError):
        tree.resolve("a/x")


def test_link_is_replaced_and_its_target_left_alone(tree: Tree) -> None:
    tree.add_file("usr/bin/mawk", "mawk")
    tree.add_symlink("usr/bin/awk", "mawk")
    tree.add_file("usr/bin/awk", "own")

    assert tree.read_text("usr/bin/mawk") == "mawk"
    assert tree.read_text("usr/bin/awk") == "own"


def test_directory_over_a_link_to_one_keeps_the_link(tree: Tree) -> None:
    tree.add_directory("bin", 0o755)
    assert tree.entries["bin"].is_symlink


def test_directory_over_a_file_raises(tree: Tree) -> None:
    tree.add_file("x", "")
    with pytest.raises(ConfigError):
        tree.add_directory("x")


def test_file_over_a_directory_raises(tree: Tree) -> None:
    with pytest.raises(ConfigError):
        tree.add_file("usr", "")


def test_hard_link_shares_entry_and_content(tree: Tree) -> None:
    tree.add_file("usr/bin/perl", "p", 0o755)
    tree.add_hard_link("usr/bin/perl5", "bin/perl")

    assert tree.entries["usr/bin/perl5"] is tree.entries["usr/bin/perl"]
    assert os.stat(tree.staging / "usr/bin/perl").st_nlink == 2


def test_files_in_lists_one_level(tree: Tree) -> None:
    tree.add_file("usr/bin/b", "")
    tree.add_file("usr/bin/a", "")
    tree.add_file("usr/bin/deep/c", "")
    assert tree.files_in("bin") == ["a", "b", "deep"]
    assert tree.files_in("nowhere") == []


def test_read_of_a_directory_raises(tree: Tree) -> None:
    with pytest.raises(KeyError):
        tree.read("usr")
    assert tree.read_text("usr") == ""


def test_dangling_link_exists_and_leads_nowhere(tree: Tree) -> None:
    tree.add_symlink("etc/mtab", "../proc/mounts")
    assert tree.exists("etc/mtab")
    assert tree.get("etc/mtab") is None


def test_staged_files_are_private_to_the_user(tree: Tree) -> None:
    tree.add_file("etc/shadow", "secret", 0o666)
    assert os.stat(tree.staging / "etc/shadow").st_mode & 0o077 == 0


def test_finish_sets_the_times(tree: Tree) -> None:
    tree.add_file("f", "", mtime=55)
    tree.finish()

    assert os.lstat(tree.staging / "f").st_mtime == 55
    assert os.lstat(tree.staging / "bin").st_mtime == 1000
