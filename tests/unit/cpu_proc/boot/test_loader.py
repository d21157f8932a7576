"""A whole guest on paper: what goes where, where harts begin, and what does not fit together."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest

from cpu_proc.boot import fdt, loader
from cpu_proc.boot.config import BootConfig, Load
from cpu_proc.boot.fdt import Node, Tree, cells64
from cpu_proc.boot.loader import Guest, Span, Start
from cpu_proc.memory_map import FLASH, MROM
from protocol.errors import ConfigError
from tests.unit.cpu_proc.boot.files import elf, image
from tests.unit.cpu_proc.harness import RAM

SIZE = 16 << 20
CODE = b"\x13\x05\x10\x00" * 64


def describe(initrd: Span | None) -> Node:
    """Return a small tree."""
    root = Node()
    root.child("chosen", bootargs="own", initrd=cells64(*(initrd or (0, 0))))
    return root


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with one file of each kind."""
    (tmp_path / "Image").write_bytes(image())
    (tmp_path / "initrd").write_bytes(b"disk" * 1000)
    (tmp_path / "fw.bin").write_bytes(CODE)
    (tmp_path / "prog.elf").write_bytes(elf(entry=RAM + 0x60_0004, segments=((RAM + 0x60_0000,) * 2 + (CODE, 0x1000),)))
    (tmp_path / "foo.bin").write_bytes(b"foo!")
    return tmp_path


def plan(boot: BootConfig, harts: int = 1) -> Guest:
    """Place a guest in 16 MiB."""
    return loader.plan(boot, SIZE, harts, describe)


def places(guest: Guest) -> dict[str, tuple[int, int]]:
    """Return (start, end) by the first word of each name and, for loads, the number."""
    return {
        range_.name.replace("/", " ").split(" ")[0]: (range_.start, range_.end) for range_ in guest.placement.ranges
    }


def test_a_kernel_begins_in_s_mode_with_its_disk_below_the_tree(folder: Path) -> None:
    guest = plan(BootConfig(folder / "Image", folder / "initrd"))
    assert guest.start == Start(RAM + 0x20_0000, False)
    assert guest.tree_at == RAM + SIZE - (2 << 20)
    found = places(guest)
    assert found["kernel"] == (RAM + 0x20_0000, RAM + 0x20_3000)
    assert found["initrd"] == (guest.tree_at - 4096, guest.tree_at - 96)
    assert fdt.parse(guest.blob).root.children["chosen"].properties["initrd"] == struct.pack(">QQ", *found["initrd"])
    assert guest.rom == b""


def test_firmware_begins_in_m_mode_and_gets_the_kernels_place(folder: Path) -> None:
    guest = plan(BootConfig(folder / "Image", firmware=folder / "fw.bin"))
    assert guest.start_of(5) == Start(MROM.base, True)
    assert struct.unpack_from("<2Q", guest.rom, 24) == (RAM, guest.tree_at)
    assert struct.unpack_from("<3Q", guest.rom, 40)[2] == RAM + 0x20_0000
    room = next(r for r in guest.placement.ranges if r.name == "device tree")
    assert room.end - room.start >= len(guest.blob) + 4096  # firmware adds to the tree in place


def test_firmware_alone_has_no_next_stage(folder: Path) -> None:
    guest = plan(BootConfig(None, firmware=folder / "prog.elf"))
    assert struct.unpack_from("<Q", guest.rom, 24)[0] == RAM + 0x60_0004
    assert struct.unpack_from("<3Q", guest.rom, 40)[2] == 0


def test_loads_without_kernel_begin_at_the_start_of_memory(folder: Path) -> None:
    guest = plan(BootConfig(None, loads=(Load("load 1 (foo.bin)", RAM, folder / "foo.bin"),)))
    assert guest.start == Start(MROM.base, True)
    assert struct.unpack_from("<Q", guest.rom, 24)[0] == RAM


def test_flash_alone_begins_in_m_mode_with_nothing_next(folder: Path) -> None:
    guest = plan(BootConfig(None, flash=(folder / "flash", None)))
    assert guest.start == Start(MROM.base, True)
    assert struct.unpack_from("<2Q", guest.rom, 24) == (FLASH.base, guest.tree_at)
    assert guest.items == {}


@pytest.mark.parametrize("firmware", [None, "fw.bin"])
def test_flash_comes_before_a_kernel_which_is_in_fw_cfg(folder: Path, firmware: str | None) -> None:
    """As QEMU does with pflash0, whether firmware is its own or the user's."""
    boot = BootConfig(
        folder / "Image",
        folder / "initrd",
        "quiet",
        firmware=folder / firmware if firmware else None,
        flash=(folder / "flash", None),
    )
    guest = plan(boot)
    if firmware:
        assert struct.unpack_from("<Q", guest.rom, 24)[0] == RAM
        assert struct.unpack_from("<3Q", guest.rom, 40)[2] == FLASH.base
    else:
        assert guest.start == Start(FLASH.base, False)
    kernel, disk = (folder / "Image").read_bytes(), (folder / "initrd").read_bytes()
    assert guest.items == {
        0x08: struct.pack("<I", len(kernel)), 0x11: kernel,
        0x0B: struct.pack("<I", len(disk)), 0x12: disk,
        0x14: struct.pack("<I", 6), 0x15: b"quiet\0",
    }  # fmt: skip
    assert not {"kernel", "initrd"} & set(places(guest))


def test_loads_set_where_harts_begin(folder: Path) -> None:
    loads = (
        Load("load 1 (prog.elf)", file=folder / "prog.elf", cpu=1),
        Load("load 2", RAM + 0x100, cpu=2),
        Load("load 3 (prog.elf)", RAM + 0x70_0000, folder / "prog.elf", force_raw=True, cpu=3),
        Load("load 4", RAM + 0x50_0000, value=0x1234, size=4),
    )
    guest = plan(BootConfig(folder / "Image", loads=loads), harts=4)
    assert [guest.start_of(hart).pc - RAM for hart in range(4)] == [0x20_0000, 0x60_0004, 0x100, 0x70_0000]
    assert [guest.start_of(hart).machine for hart in range(4)] == [False, True, True, True]
    assert {r.data for r in guest.placement.ranges} >= {b"\x34\x12\0\0", (folder / "prog.elf").read_bytes(), CODE}


def test_a_hypervisors_guests_are_named_in_the_tree(folder: Path) -> None:
    loads = (
        Load("load 1 (Image)", RAM + 0x40_0000, kernel=folder / "Image", bootargs="quiet"),
        Load("load 2 (initrd)", RAM + 0x50_0000, initrd=folder / "initrd"),
    )
    chosen = fdt.parse(plan(BootConfig(folder / "Image", loads=loads)).blob).root.children["chosen"]
    assert chosen.children["module@0x80400000"].properties == {
        "reg": struct.pack(">QQ", RAM + 0x40_0000, 0x1000),
        "compatible": b"multiboot,module\0multiboot,kernel\0",
        "bootargs": b"quiet\0",
    }
    assert chosen.children["module@0x80500000"].properties["compatible"] == b"multiboot,module\0multiboot,ramdisk\0"


def test_an_own_tree_gets_command_line_and_disk(folder: Path) -> None:
    root = Node({"own": 1})
    (folder / "own.dtb").write_bytes(Tree(root, ((RAM, 4096),), 3).flatten())
    guest = plan(BootConfig(folder / "Image", folder / "initrd", "a=b", dtb=folder / "own.dtb"))
    found = fdt.parse(guest.blob)
    start, end = places(guest)["initrd"]
    assert found.root.properties == {"own": b"\0\0\0\1"}
    assert found.root.children["chosen"].properties == {
        "bootargs": b"a=b\0",
        "linux,initrd-start": struct.pack(">Q", start),
        "linux,initrd-end": struct.pack(">Q", end),
    }
    assert (found.reservations, found.boot_hart) == (((RAM, 4096),), 3)


@pytest.mark.parametrize(
    ("boot", "said"),
    [
        ({"loads": (Load("load 2 (foo.bin)", RAM + 0x20_1000, Path("foo.bin")),)},
         "load 2 (foo.bin) 0x80201000-0x80201004 overlaps kernel "),
        ({"loads": (Load("load 1", RAM + SIZE - 4, value=0, size=8),)}, "load 1 does not fit"),
        ({"loads": (Load("load 1", RAM + SIZE - (2 << 20), value=0, size=8),)}, "device tree 0x80e00000-"),
        ({"loads": (Load("load 1 (foo.bin)", None, Path("foo.bin")),)}, "load 1 (foo.bin): address is missing"),
        ({"loads": (Load("load 1 (none)", RAM, Path("none")),)}, "cannot read load 1"),
        ({"loads": (Load("load 1 (prog.elf)", RAM, Path("prog.elf")),)}, "an ELF file goes to its own"),
        ({"loads": (Load("load 1", RAM, cpu=1),)}, "load 1: there is no cpu 1"),
        ({"loads": (Load("load 1", 0x1000, cpu=0),)}, "cpu 0 cannot begin at 0x1000"),
        ({"loads": (Load("load 1", RAM + 1, cpu=0),)}, "cpu 0 cannot begin"),
        ({"dtb": Path("foo.bin")}, "4 bytes are no device tree"),
        ({"dtb": Path("Image")}, "it begins with"),
        ({"firmware": Path("fw.bin"), "loads": (Load("load 1", RAM, value=1, size=1),)}, "overlaps firmware"),
        ({"initrd": Path("big")}, "do not fit into guest memory"),
    ],
)  # fmt: skip
def test_what_does_not_fit_together_is_named(folder: Path, boot: dict[str, object], said: str) -> None:
    with (folder / "big").open("wb") as file:
        file.truncate(SIZE - (3 << 20))

    def real(value: object) -> object:
        if isinstance(value, Path):
            return folder / value
        if isinstance(value, tuple):
            return tuple(real(item) for item in value)
        if isinstance(value, Load) and value.file:
            return Load(value.name, value.address, folder / value.file)
        return value

    with pytest.raises(ConfigError) as caught:
        plan(BootConfig(folder / "Image", **{key: real(value) for key, value in boot.items()}))  # type: ignore[arg-type]
    assert said in caught.value.message
