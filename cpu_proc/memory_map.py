"""Physical addresses and interrupt numbers of the machine: those of QEMU's ``virt`` (reference: its memory map)."""

from __future__ import annotations

from typing import NamedTuple


class Region(NamedTuple):
    """A range of physical addresses."""

    base: int
    size: int


MROM = Region(0x1000, 0xF000)
TEST = Region(0x10_0000, 0x1000)
RTC = Region(0x10_1000, 0x1000)
CLINT = Region(0x200_0000, 0x1_0000)
PCIE_PIO = Region(0x300_0000, 0x1_0000)
PLATFORM = Region(0x400_0000, 0x200_0000)  # plain devices of other processes
PLIC = Region(0xC00_0000, 0x60_0000)
APLIC_M = Region(0xC00_0000, 0x8000)
APLIC_S = Region(0xD00_0000, 0x8000)
UART0 = Region(0x1000_0000, 0x100)
VIRTIO = Region(0x1000_1000, 0x8000)  # the slots of virtio-mmio
FW_CFG = Region(0x1010_0000, 0x18)
PLATFORM_MEMORY = Region(0x1800_0000, 0x800_0000)  # of those that have memory beside their registers
FLASH = Region(0x2000_0000, 0x400_0000)  # two banks
IMSIC_M = Region(0x2400_0000, 0x400_0000)
IMSIC_S = Region(0x2800_0000, 0x400_0000)
PCIE_ECAM = Region(0x3000_0000, 0x1000_0000)
PCIE_MMIO = Region(0x4000_0000, 0x4000_0000)
DRAM_BASE = 0x8000_0000

VIRTIO_SLOTS = 8
VIRTIO_IRQ = 1  # to 8, one a slot
UART0_IRQ = 10
RTC_IRQ = 11
PCIE_IRQ = 32  # to 35: INTx, swizzled by slot and pin
PLATFORM_SLOTS = 32
PLATFORM_IRQ = 64  # to 95, one a slot
WIRED_SOURCES = 96
MSI_IDS = 255
TIMEBASE_HZ = 10_000_000
UART_CLOCK_HZ = 3_686_400

_HIGH_ALIGN = 16 << 30


def virtio_slot(index: int) -> Region:
    """Return where slot ``index`` of virtio-mmio is."""
    size = VIRTIO.size // VIRTIO_SLOTS
    return Region(VIRTIO.base + index * size, size)


def platform_slot(index: int) -> Region:
    """Return where slot ``index`` of the platform bus is."""
    size = PLATFORM.size // PLATFORM_SLOTS
    return Region(PLATFORM.base + index * size, size)


def pcie_high(ram_size: int) -> Region:
    """Return the 64-bit PCIe window, which starts above RAM."""
    base = (DRAM_BASE + ram_size + _HIGH_ALIGN - 1) // _HIGH_ALIGN * _HIGH_ALIGN
    return Region(base, _HIGH_ALIGN)
