"""Snapshots on the host: whole or not at all, found by name or folder, checked before they are used."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from orchestrator import snapshots
from orchestrator.snapshots import MANIFEST, Manifest
from protocol.errors import ConfigError, NotFound
from protocol.names import Runtime

FACTS = {"vm": "vm", "made": "now", "memory": 1, "cpus": 1, "devices": ["a"], "file": None, "text": ""}


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Runtime:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return Runtime("vm")


def make(runtime: Runtime, name: str, *, replace: bool = False, content: bytes = b"state") -> Path:
    """Make a snapshot."""
    partial = snapshots.begin(runtime, name, replace=replace)
    (partial / "state").write_bytes(content)
    snapshots.finish(partial, FACTS)
    return snapshots.find(runtime, name)


def test_it_has_its_name_only_when_it_is_whole(runtime: Runtime) -> None:
    partial = snapshots.begin(runtime, "one", replace=False)
    (partial / "state").write_bytes(b"half")
    assert snapshots.known(runtime) == []
    with pytest.raises(NotFound, match="no snapshot 'one'"):
        snapshots.find(runtime, "one")
    snapshots.finish(partial, FACTS)
    assert snapshots.known(runtime) == ["one"]
    assert not partial.exists()


def test_what_an_attempt_that_was_killed_left_is_removed(runtime: Runtime) -> None:
    partial = snapshots.begin(runtime, "one", replace=False)
    ended = partial.with_name(f".one.partial-{_ended()}")
    partial.rename(ended)
    again = snapshots.begin(runtime, "one", replace=False)
    assert not ended.exists()
    other = again.with_name(".one.partial-1")  # a process that lives may be writing it
    other.mkdir()
    again.rmdir()
    snapshots.begin(runtime, "one", replace=False)
    assert other.exists()


def _ended() -> int:
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    return pid


def test_one_of_that_name_is_replaced_only_on_request(runtime: Runtime) -> None:
    make(runtime, "one")
    with pytest.raises(ConfigError, match="there is a snapshot"):
        snapshots.begin(runtime, "one", replace=False)
    folder = make(runtime, "one", replace=True, content=b"new")
    assert (folder / "state").read_bytes() == b"new"
    assert snapshots.known(runtime) == ["one"]
    assert [path.name for path in folder.parent.iterdir()] == ["one"]


def test_it_may_be_a_folder_anywhere_and_is_copied_as_it_is(runtime: Runtime, tmp_path: Path) -> None:
    folder = make(runtime, f"{tmp_path}/elsewhere/one")
    assert folder == tmp_path / "elsewhere" / "one"
    Manifest.read(folder).check(folder)
    folder.rename(tmp_path / "moved")
    moved = snapshots.find(runtime, f"{tmp_path}/moved")
    Manifest.read(moved).check(moved)


def test_damage_is_found_before_anything_is_started(runtime: Runtime) -> None:
    folder = make(runtime, "one")
    manifest = Manifest.read(folder)
    for content, says in ((b"stale", "state is damaged"), (b"stat", "state is damaged"), (None, "state: No such file")):
        (folder / "state").unlink()
        if content is not None:
            (folder / "state").write_bytes(content)
        with pytest.raises(ConfigError, match=says):
            manifest.check(folder)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"version": 1}', '{"version": 1, "more": 2}', "\0"])
def test_a_manifest_that_is_none_is_said(runtime: Runtime, text: str) -> None:
    folder = make(runtime, "one")
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ConfigError, match="manifest is broken"):
        Manifest.read(folder)
    (folder / MANIFEST).write_text(json.dumps({"version": 2}))
    with pytest.raises(ConfigError, match="version 2, this is 1"):
        Manifest.read(folder)


@pytest.mark.parametrize("name", ["", ".", "..", ".hidden", "a b", "x" * 65, "é"])
def test_names_that_are_none(runtime: Runtime, name: str) -> None:
    with pytest.raises(ConfigError, match="no name of a snapshot"):
        snapshots.begin(runtime, name, replace=False)


def test_deleted_is_deleted(runtime: Runtime) -> None:
    folder = make(runtime, "one")
    snapshots.delete(folder)
    assert snapshots.known(runtime) == []
    assert not folder.exists()
