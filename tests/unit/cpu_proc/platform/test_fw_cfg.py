"""fw_cfg: items by selector, files by name, and the DMA interface, whatever a guest writes."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from cpu_proc.platform import fw_cfg
from cpu_proc.platform.fw_cfg import FwCfg
from protocol.memory import GuestMemory
from tests.unit.cpu_proc.harness import RAM, anonymous

SIZE = 1 << 16
FILES = {"opt/z": b"last", "opt/org.example/a": b"first" * 100, "etc/empty": b""}
COMMAND = RAM + 0x100
BUFFER = RAM + 0x1000


@pytest.fixture
def memory() -> Iterator[GuestMemory]:
    """Return a little guest memory."""
    with anonymous(SIZE) as ram:
        yield GuestMemory(ram, RAM)


@pytest.fixture
def device(memory: GuestMemory) -> FwCfg:
    """Return a device with three files."""
    return FwCfg(memory, fw_cfg.standard_items(2, 1 << 30), FILES)


def big(value: int, size: int) -> int:
    """Return what a store of the big-endian number looks like to a little-endian bus."""
    return int.from_bytes(value.to_bytes(size, "big"), "little")


def item(device: FwCfg, key: int, length: int) -> bytes:
    """Read an item byte by byte."""
    device.write(fw_cfg.SELECTOR, 2, big(key, 2))
    return bytes(device.read(fw_cfg.DATA, 1) for _ in range(length))


def directory(device: FwCfg) -> dict[str, tuple[int, int]]:
    """Return (key, size) of every file."""
    (count,) = struct.unpack(">I", item(device, fw_cfg.FILE_DIRECTORY, 4))
    found = {}
    for _ in range(count):
        row = bytes(device.read(fw_cfg.DATA, 1) for _ in range(64))
        size, key, _reserved, name = struct.unpack(">IHH56s", row)
        found[name.rstrip(b"\0").decode()] = (key, size)
    return found


def dma(device: FwCfg, memory: GuestMemory, control: int, length: int = 0, target: int = 0) -> int:
    """Run a command; return what its control word became."""
    memory.write(COMMAND, struct.pack(">IIQ", control, length, target))
    device.write(fw_cfg.DMA, 8, big(COMMAND, 8))
    found = memory.read(COMMAND, 4)
    assert found is not None
    return int.from_bytes(found, "big")


def test_standard_items(device: FwCfg) -> None:
    assert item(device, fw_cfg.SIGNATURE, 4) == b"QEMU"
    assert item(device, fw_cfg.ID, 4) == b"\3\0\0\0"
    assert item(device, fw_cfg.NB_CPUS, 2) == b"\2\0"
    assert item(device, fw_cfg.RAM_SIZE, 8) == struct.pack("<Q", 1 << 30)
    assert item(device, 0x7777, 4) == bytes(4)


def test_an_item_ends_in_zeros_and_the_selector_begins_it_again(device: FwCfg) -> None:
    assert item(device, fw_cfg.SIGNATURE, 8) == b"QEMU\0\0\0\0"
    assert item(device, fw_cfg.SIGNATURE, 2) == b"QE"
    assert device.read(fw_cfg.DATA, 2) == int.from_bytes(b"MU", "little")
    device.write(fw_cfg.SELECTOR, 2, 0)
    assert device.read(fw_cfg.DATA, 8) == int.from_bytes(b"QEMU", "little")


def test_files_are_listed_by_name(device: FwCfg) -> None:
    listed = directory(device)
    assert list(listed) == sorted(FILES)
    for name, (key, size) in listed.items():
        assert item(device, key, size) == FILES[name]


def test_dma_says_its_name(device: FwCfg) -> None:
    assert device.read(fw_cfg.DMA, 8).to_bytes(8, "little") == b"QEMU CFG"
    assert device.read(fw_cfg.DMA, 4).to_bytes(4, "little") == b"QEMU"
    assert device.read(fw_cfg.DMA + 4, 4).to_bytes(4, "little") == b" CFG"


def test_dma_selects_skips_and_reads(device: FwCfg, memory: GuestMemory) -> None:
    key, size = directory(device)["opt/org.example/a"]
    assert dma(device, memory, key << 16 | fw_cfg.SELECT | fw_cfg.SKIP, 5) == 0
    assert dma(device, memory, fw_cfg.READ, size, BUFFER) == 0
    assert memory.read(BUFFER, size) == FILES["opt/org.example/a"][5:] + bytes(5)


def test_dma_by_halves(device: FwCfg, memory: GuestMemory) -> None:
    memory.write(COMMAND, struct.pack(">IIQ", fw_cfg.SELECT | fw_cfg.READ, 4, BUFFER))
    device.write(fw_cfg.DMA, 4, 0)
    device.write(fw_cfg.DMA + 4, 4, big(COMMAND, 4))
    assert memory.read(BUFFER, 4) == b"QEMU"


@pytest.mark.parametrize(
    ("control", "length", "target"),
    [
        (fw_cfg.WRITE, 4, BUFFER),
        (fw_cfg.READ, SIZE, BUFFER),
        (fw_cfg.READ, 0xFFFF_FFFF, RAM),
        (fw_cfg.READ, 1, RAM - 1),
        (fw_cfg.READ, 1, (1 << 64) - 1),
    ],
)
def test_an_impossible_dma_is_an_error_and_changes_nothing(
    device: FwCfg, memory: GuestMemory, control: int, length: int, target: int
) -> None:
    before = memory.read(BUFFER, 16)
    assert dma(device, memory, control, length, target) == fw_cfg.ERROR
    assert memory.read(BUFFER, 16) == before


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(some.lists(some.tuples(some.integers(0, 23), some.sampled_from([1, 2, 4, 8]), some.integers(0, (1 << 64) - 1))))
def test_nothing_a_guest_does_raises(device: FwCfg, accesses: list[tuple[int, int, int]]) -> None:
    for offset, size, value in accesses:
        offset &= -size
        device.write(offset, size, value & (1 << 8 * size) - 1)
        assert 0 <= device.read(offset, size) < 1 << 8 * size
