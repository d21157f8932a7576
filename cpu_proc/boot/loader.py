"""Everything that is in guest memory when the harts begin: firmware, kernel, initial RAM disk, device tree, loads.

Placement follows QEMU's ``virt``: firmware at the start of RAM, the kernel 2 MiB into RAM or behind the firmware, the
device tree at the end of RAM; the initial RAM disk goes as high as it can below that.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace

from cpu_proc.boot import fdt, images, reset_vector
from cpu_proc.boot.config import BootConfig, Load
from cpu_proc.boot.fdt import Node, Tree, cells64
from cpu_proc.boot.images import ALIGN, Image
from cpu_proc.boot.placement import Placement
from cpu_proc.memory_map import DRAM_BASE, FLASH, MROM
from cpu_proc.platform import fw_cfg
from protocol.errors import ConfigError

_PAGE = 4096
_TREE_GROWS = 64 << 10  # bytes that firmware may add to the tree in place

Span = tuple[int, int]
Describe = Callable[[Span | None], Node]
"""Returns the machine's own tree, given where the initial RAM disk is (start, end)."""


@dataclass(frozen=True)
class Start:
    """Where a hart begins: in M mode as after a reset, or in S mode behind the built-in firmware."""

    pc: int
    machine: bool


@dataclass
class Guest:
    """A guest on paper: what lies where, and how harts begin."""

    placement: Placement
    start: Start
    tree_at: int = 0
    blob: bytes = b""
    rom: bytes = b""
    items: dict[int, bytes] = field(default_factory=dict)
    """What fw_cfg has for firmware that finds its kernel there, by key."""
    starts: dict[int, Start] = field(default_factory=dict)
    """Harts that begin elsewhere."""

    def start_of(self, hart: int) -> Start:
        """Return how this hart begins."""
        return self.starts.get(hart, self.start)


def plan(boot: BootConfig, ram_size: int, harts: int, describe: Describe) -> Guest:
    """Place everything that ``boot`` names.

    Raises:
        ConfigError: a file is not what it should be, or things do not fit together.
    """
    placement = Placement(ram_size)
    firmware = images.firmware(boot.firmware) if boot.firmware else None
    if firmware:
        _claim(placement, f"firmware {boot.firmware}", firmware)
    items: dict[int, bytes] = {}
    if boot.flash[0]:  # code in flash comes in the place of the kernel, and finds that in fw_cfg
        items, boot = _for_flash(boot), replace(boot, kernel=None, initrd=None)
        entry = FLASH.base
        start = Start(firmware.entry if firmware else entry, bool(firmware) or not items)
        kernel = None
    else:
        kernel = images.kernel(boot.kernel, firmware.end if firmware else 0) if boot.kernel else None
        entry = kernel.entry if kernel else 0
        start = Start(firmware.entry if firmware else entry or DRAM_BASE, bool(firmware) or not kernel)
    if kernel:
        _claim(placement, f"kernel {boot.kernel}", kernel)
    guest = Guest(placement, start, items=items)
    modules: list[tuple[str, Node]] = []
    for load in boot.loads:
        _load(guest, load, harts, modules)
    floor = max((image.end for image in (firmware, kernel) if image), default=DRAM_BASE)
    _tree(guest, boot, describe, modules, floor)
    if start.machine:
        guest.rom = reset_vector.content(start.pc, guest.tree_at, entry)
        guest.start = Start(MROM.base, True)
    return guest


def _for_flash(boot: BootConfig) -> dict[int, bytes]:
    """Return the kernel, its RAM disk and its command line as items of fw_cfg, where there is a kernel."""
    if not boot.kernel:
        return {}
    kernel = images.unpacked(images.read(boot.kernel, "kernel"), f"kernel {boot.kernel}")
    return fw_cfg.kernel_items(kernel, images.read(boot.initrd, "initrd") if boot.initrd else b"", boot.cmdline)


def _claim(placement: Placement, name: str, image: Image) -> None:
    for segment in image.segments:
        placement.claim(name, segment.start, segment.data, segment.size)


def _load(guest: Guest, load: Load, harts: int, modules: list[tuple[str, Node]]) -> None:
    entry = load.address
    path = load.file or load.kernel or load.initrd
    if load.value is not None and load.address is not None:
        guest.placement.claim(load.name, load.address, load.value.to_bytes(load.size, "little"))
    elif path:
        data = images.read(path, load.name)
        if load.file and images.is_elf(data) and not load.force_raw:
            image = images.elf(data, load.name)
            if load.address is not None:
                raise ConfigError(
                    f"{load.name}: an ELF file goes to its own addresses", hint="leave address out, or add force-raw"
                )
        elif load.address is None:
            raise ConfigError(f"{load.name}: address is missing", hint="only an ELF file has one of its own")
        else:
            image = images.raw(data, load.address)
        _claim(guest.placement, load.name, image)
        entry = image.entry
        if not load.file:
            modules.append(_module(load, image))
    if load.cpu is not None and entry is not None:
        if not 0 <= load.cpu < harts:
            raise ConfigError(f"{load.name}: there is no cpu {load.cpu}", hint=f"vm.cpus is {harts}")
        places = ((DRAM_BASE, guest.placement.end), (FLASH.base, FLASH.base + FLASH.size))
        if not any(start <= entry < end for start, end in places) or entry & 1:
            raise ConfigError(f"{load.name}: cpu {load.cpu} cannot begin at {entry:#x}", hint="code is in RAM or flash")
        guest.starts[load.cpu] = Start(entry, True)


def _module(load: Load, image: Image) -> tuple[str, Node]:
    """Return the node that tells a hypervisor of a guest's kernel or disk (QEMU's guest loader)."""
    kind = "multiboot,kernel" if load.kernel else "multiboot,ramdisk"
    node = Node({"reg": cells64(image.start, image.end - image.start), "compatible": ["multiboot,module", kind]})
    if load.bootargs:
        node.properties["bootargs"] = load.bootargs
    return f"module@{image.start:#010x}", node


def _tree(guest: Guest, boot: BootConfig, describe: Describe, modules: list[tuple[str, Node]], floor: int) -> None:
    """Place device tree and initial RAM disk; the tree is as long wherever the disk is."""
    own = _own_tree(boot)

    def blob(initrd: Span | None) -> bytes:
        tree = own() if own else Tree(describe(initrd))
        chosen = tree.root.children.get("chosen") or tree.root.child("chosen")
        if own and boot.cmdline:
            chosen.properties["bootargs"] = boot.cmdline
        if own and initrd:
            chosen.properties["linux,initrd-start"] = cells64(initrd[0])
            chosen.properties["linux,initrd-end"] = cells64(initrd[1])
        chosen.children.update(modules)
        return tree.flatten()

    placement = guest.placement
    disk = images.read(boot.initrd, "initrd") if boot.initrd else None
    size = len(blob((0, 0) if disk is not None else None)) + (_TREE_GROWS if guest.start.machine else 0)
    guest.tree_at = (placement.end - size) & -ALIGN
    placement.claim("device tree", guest.tree_at, b"", size)
    place = None
    if disk is not None:
        start = placement.highest(len(disk), _PAGE, floor, guest.tree_at)
        if start is None:
            raise ConfigError(
                f"initrd {boot.initrd} ({len(disk) >> 20} MiB) and the rest do not fit into guest memory",
                hint="raise vm.memory",
            )
        place = start, start + len(disk)
        placement.claim(f"initrd {boot.initrd}", start, disk)
    guest.blob = blob(place)
    placement.claim("device tree", guest.tree_at, guest.blob)


def _own_tree(boot: BootConfig) -> Callable[[], Tree] | None:
    """Return what reads the user's own tree, each time anew."""
    if not boot.dtb:
        return None
    data = images.read(boot.dtb, "device tree")
    try:
        fdt.parse(data)
    except fdt.BrokenTree as error:
        raise ConfigError(f"device tree {boot.dtb}: {error}", hint="make one with dtc") from error
    return lambda: fdt.parse(data)
