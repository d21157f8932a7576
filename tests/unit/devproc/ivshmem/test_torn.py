"""Somebody makes the memory shorter under clients that read it: zeros, and an event, in place of SIGBUS."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from devproc.ivshmem.client import Torn, connect
from devproc.ivshmem.mapping import Mapping
from protocol.errors import HostError
from tests.unit.devproc.ivshmem.rig import Threaded


@pytest.mark.parametrize("readonly", [False, True])
def test_a_client_survives_that_its_memory_is_cut(tmp_path: Path, readonly: bool) -> None:
    file = tmp_path / "memory"
    with (
        Threaded(tmp_path, memory=str(file), size=16384) as server,
        connect(server.path) as writer,
        connect(server.path, readonly=readonly) as me,
    ):
        writer.memory[0:4] = b"kept"
        writer.memory[8192:8196] = b"gone"
        assert (bytes(me.memory[8192:8196]), me.wait_event(0)) == (b"gone", None)
        subprocess.run([sys.executable, "-c", "import os, sys; os.truncate(sys.argv[1], 4096)", file], check=True)
        assert bytes(me.memory[8192:8196]) == b"\0\0\0\0"
        assert bytes(me.memory[0:4]) == b"kept"
        assert (me.wait_event(0), me.wait_event(0)) == (Torn(), None)
        assert bytes(me.memory[12288:16384]) == bytes(4096)  # it is told once
        assert me.wait_event(0) is None
        writer.memory[8192:8196] = b"mine"  # where there is nothing to be shared
        assert writer.wait_event(0) == Torn()
        late = Mapping(me.memory_fd, 4096, readonly=True)
        late.close()
        with pytest.raises(HostError, match="cannot map"):
            Mapping(me.memory_fd, 16384, readonly=True)


def test_sealed_memory_needs_no_handler(tmp_path: Path) -> None:
    program = """
import sys
from pathlib import Path
from devproc.ivshmem.client import connect
from tests.unit.protocol.test_truncation import handler
with connect(sys.argv[1]) as me:
    me.memory[0] = 1
    print(handler())
print(handler())
"""
    for options, expected in (({}, "default"), ({"memory": str(tmp_path / "m")}, "caught")):
        with Threaded(tmp_path, **options) as server:
            done = subprocess.run(
                [sys.executable, "-c", program, server.path], capture_output=True, text=True, check=True, timeout=30
            )
        assert done.stdout.split() == [expected, "default"]
