"""A link has one peer, by its process."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from protocol import messages
from protocol.link import Link

STRANGER = """
import sys
from protocol import messages
from protocol.link import Link
link = Link(sys.argv[1], epoch=1, bind=False)
link.send(messages.Done(1, 7))
input()
link.close()
"""


@pytest.mark.parametrize("known", [True, False])
def test_a_process_that_is_not_the_peer_is_not_heard(tmp_path: Path, known: bool) -> None:
    endpoint = f"ipc://{tmp_path}/link"
    command = [sys.executable, "-c", STRANGER, endpoint]
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as another:
        link = Link(endpoint, epoch=1, bind=True, peer_pid=another.pid if known else None)
        with subprocess.Popen(command, stdin=subprocess.PIPE) as stranger:
            found = link.receive(3.0 if known else 20.0)
            stranger.communicate(b"\n")
        assert found == (None if known else messages.Done(1, 7))
        link.close()
        another.communicate(b"\n")
