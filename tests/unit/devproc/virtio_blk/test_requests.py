"""Whatever stands in a request, it is answered with one of three statuses, and touches what it names alone."""

from __future__ import annotations

import struct
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from devproc.machine import Machine
from devproc.virtio_blk.config import Config
from devproc.virtio_blk.device import BlockDevice
from devproc.virtio_blk.prompt import Disk
from devproc.virtio_blk.spec import SECTOR, Segment, Type, segments
from tests.unit.devproc.virtio_blk.platter import Platter

SECTORS = 64
ANY_SECTOR = st.one_of(st.integers(0, SECTORS + 1), st.integers(0, (1 << 64) - 1), st.just((1 << 64) - 1))
COUNT = st.one_of(st.integers(0, SECTORS + 1), st.integers(0, (1 << 32) - 1))
FLAGS = st.one_of(st.sampled_from([0, 0, 1]), st.integers(0, (1 << 32) - 1))
RANGES = st.lists(st.tuples(ANY_SECTOR, COUNT, FLAGS), max_size=40).map(
    lambda found: b"".join(struct.pack("<QII", *segment) for segment in found)
)
OUT_DATA = st.one_of(RANGES, RANGES.map(lambda data: data[:-3]), st.integers(0, 9).map(lambda n: b"w" * 256 * n))
KIND = st.one_of(st.sampled_from(list(Type)), st.integers(0, (1 << 32) - 1))
REQUEST = st.tuples(KIND, ANY_SECTOR, OUT_DATA, st.integers(0, 2048))


@given(st.lists(REQUEST, min_size=1, max_size=6), st.sampled_from([512, 4096]), st.booleans())
@settings(max_examples=150, deadline=None)
def test_every_request_is_answered_and_the_disk_keeps_its_shape(
    requests: list[tuple[int, int, bytes, int]], block: int, readonly: bool
) -> None:
    platter = Platter(SECTORS)
    platter.content[:] = b"o" * len(platter.content)
    config = Config(image=Path("platter"), threads=1, block_size=block, readonly=readonly)
    device = BlockDevice.over("pci")(config, platter)
    machine = Machine.private(device.page_size)
    device.attach(machine)
    disk = Disk(device)
    disk.set_up()
    try:
        for kind, sector, out, size in requests:
            before = bytes(platter.content)
            answer, _ = disk.request(kind, sector, out=out, size=size)

            assert answer in ("ok", "i/o error", "unsupported")
            assert len(platter.content) == SECTORS * SECTOR
            if answer != "ok" or readonly or kind not in (Type.OUT, Type.WRITE_ZEROES):
                assert platter.content == before
            elif kind == Type.OUT:
                at = sector * SECTOR
                assert platter.content == before[:at] + out + before[at + len(out) :]
            else:
                ((first, count, _),) = struct.iter_unpack("<QII", out)
                at, end = first * SECTOR, (first + count) * SECTOR
                assert platter.content == before[:at] + bytes(end - at) + before[end:]
    finally:
        device.detach()
        device.release()
        device.close()
        machine.close()


def test_segments_are_whole_and_bounded() -> None:
    one = struct.pack("<QII", 1 << 40, 7, 1)

    assert segments(one, 1) == [Segment(1 << 40, 7, 1)]
    assert segments(one * 2, 2) == [Segment(1 << 40, 7, 1)] * 2
    assert [segments(data, 2) for data in (b"", one[:-1], one * 3, one + b"x")] == [None] * 4
