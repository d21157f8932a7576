"""A short run of bad messages at each socket of a VM, and that somebody who is lost would be noticed."""

from __future__ import annotations

import os
import signal
from random import Random

import pytest

from tests.fuzz.doors.__main__ import DOORS, run
from tests.fuzz.doors.place import Place, sizes


@pytest.mark.parametrize("door", DOORS)
def test_nothing_that_is_said_does_harm(door: str) -> None:
    assert "nobody lost" in run(door, 3000, 7)


def test_who_is_lost_is_noticed() -> None:
    with Place() as place:
        door = DOORS["vhost-user"](place, Random(1))
        next(door)
        assert sizes(place).keys() == {"devproc.virtio_blk"}
        os.kill(place.processes["disk"].pid, signal.SIGKILL)
        with pytest.raises((AssertionError, OSError)):
            next(door)
        door.close()
