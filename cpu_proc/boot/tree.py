"""The device tree of the machine, node for node as QEMU's ``virt`` describes its own."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from cpu_proc import memory_map as mm
from cpu_proc.boot.config import BootConfig
from cpu_proc.boot.fdt import Node, cells64
from cpu_proc.engine.state import CACHE_BLOCK
from cpu_proc.hart import ISA
from cpu_proc.platform.bus import PlatformDevice, add_nodes

_S_EXTERNAL, _M_EXTERNAL, _M_SOFTWARE, _M_TIMER = 9, 11, 3, 7
_LEVEL_HIGH = 4
_PCI_IO, _PCI_MMIO32, _PCI_MMIO64 = 0x100_0000, 0x200_0000, 0x300_0000
_PIN_MASK_SLOT, _PIN_MASK_PIN = 0x1800, 7


@dataclass(frozen=True)
class Description:
    """What the tree has to say about this VM."""

    harts: int
    ram_size: int
    cmdline: str = ""
    initrd: tuple[int, int] | None = None  # (start, end)
    seed: bytes = bytes(32)  # for the guest's random numbers
    interrupts: str = "aia"  # or "plic"
    machine_level: bool = False  # firmware runs in M mode and needs to know that mode's controllers
    flash: bool = False
    platform: Sequence[PlatformDevice] = ()  # devices of other processes that nothing else names


@dataclass(frozen=True)
class _Wires:
    """Where wired interrupts go: the handle of their controller, and the cells behind a source's number."""

    controller: int
    kind: tuple[int, ...]

    def cells(self, source: int) -> list[int]:
        """Return how an interrupt is written."""
        return [source, *self.kind]


class _Handles:
    """Hands out phandles."""

    def __init__(self) -> None:
        self._last = 0

    def next(self) -> int:
        self._last += 1
        return self._last


def describe(
    boot: BootConfig,
    harts: int,
    ram_size: int,
    interrupts: str,
    seed: bytes = bytes(32),
    platform: Sequence[PlatformDevice] = (),
) -> Callable[[tuple[int, int] | None], Node]:
    """Return what builds the tree of a VM, given where its initial RAM disk is."""
    vm = Description(
        harts,
        ram_size,
        boot.cmdline,
        interrupts=interrupts,
        seed=seed,
        machine_level=boot.firmware is not None or boot.kernel is None,
        flash=any(boot.flash),
        platform=platform,
    )
    return lambda initrd: build(replace(vm, initrd=initrd))


def build(vm: Description) -> Node:
    """Return the root node."""
    handles = _Handles()
    root = Node({"#address-cells": 2, "#size-cells": 2, "compatible": "riscv-virtio", "model": "riscv-virtio,busvm"})
    serial = f"serial@{mm.UART0.base:x}"
    chosen = root.child("chosen", stdout_path=f"/soc/{serial}", rng_seed=vm.seed)
    if vm.cmdline:
        chosen.properties["bootargs"] = vm.cmdline
    if vm.initrd:
        chosen.properties["linux,initrd-start"] = cells64(vm.initrd[0])
        chosen.properties["linux,initrd-end"] = cells64(vm.initrd[1])
    root.child("aliases", serial0=f"/soc/{serial}")
    root.child(f"memory@{mm.DRAM_BASE:x}", device_type="memory", reg=cells64(mm.DRAM_BASE, vm.ram_size))
    controllers = _cpus(root, vm, handles)
    soc = root.child("soc", compatible="simple-bus", ranges=None)
    soc.properties.update({"#address-cells": 2, "#size-cells": 2})
    _clint(soc, controllers)
    imsic = None
    if vm.interrupts == "plic":
        wires = _plic(soc, controllers, handles)
    else:
        imsic, wires = _aia(soc, controllers, handles, vm.machine_level)
    _peripherals(root, soc, wires, handles)
    _virtio(soc, wires)
    add_nodes(soc, list(vm.platform), wires.controller, wires.kind)
    _pcie(soc, vm, imsic, wires)
    root.child(f"fw-cfg@{mm.FW_CFG.base:x}", compatible="qemu,fw-cfg-mmio", reg=cells64(*mm.FW_CFG), dma_coherent=None)
    if vm.flash:
        half = mm.FLASH.size // 2
        root.child(
            f"flash@{mm.FLASH.base:x}",
            compatible="cfi-flash",
            reg=cells64(mm.FLASH.base, half, mm.FLASH.base + half, half),
            bank_width=4,
        )
    return root


def isa_of(vm: Description) -> str:
    """Return the ISA string; without interrupt files there is no AIA."""
    return ISA if vm.interrupts == "aia" else ISA.replace("_smaia", "").replace("_ssaia", "")


def _cpus(root: Node, vm: Description, handles: _Handles) -> list[int]:
    cpus = root.child("cpus", timebase_frequency=mm.TIMEBASE_HZ)
    cpus.properties.update({"#address-cells": 1, "#size-cells": 0})
    isa = isa_of(vm)
    extensions = ["i", "m", "a", "f", "d", "c", *isa.split("_")[1:]]
    controllers = []
    cluster = Node()
    for index in range(vm.harts):
        controller, cpu_handle = handles.next(), handles.next()
        cpu = cpus.child(
            f"cpu@{index}",
            device_type="cpu",
            reg=index,
            status="okay",
            compatible="riscv",
            riscv__isa=isa,
            riscv__isa_base="rv64i",
            riscv__isa_extensions=extensions,
            mmu_type="riscv,sv57",
            riscv__cbom_block_size=CACHE_BLOCK,
            riscv__cboz_block_size=CACHE_BLOCK,
            phandle=cpu_handle,
        )
        intc = cpu.child(
            "interrupt-controller", compatible="riscv,cpu-intc", interrupt_controller=None, phandle=controller
        )
        intc.properties.update({"#interrupt-cells": 1, "#address-cells": 0})
        controllers.append(controller)
        cluster.child(f"core{index}", cpu=cpu_handle)
    cpus.child("cpu-map").children["cluster0"] = cluster
    return controllers


def _clint(soc: Node, controllers: list[int]) -> None:
    soc.child(
        f"clint@{mm.CLINT.base:x}",
        compatible=["sifive,clint0", "riscv,clint0"],
        reg=cells64(*mm.CLINT),
        interrupts_extended=[cell for c in controllers for cell in (c, _M_SOFTWARE, c, _M_TIMER)],
    )


def _plic(soc: Node, controllers: list[int], handles: _Handles) -> _Wires:
    handle = handles.next()
    node = soc.child(
        f"plic@{mm.PLIC.base:x}",
        compatible=["sifive,plic-1.0.0", "riscv,plic0"],
        reg=cells64(*mm.PLIC),
        interrupt_controller=None,
        interrupts_extended=[cell for c in controllers for cell in (c, _M_EXTERNAL, c, _S_EXTERNAL)],
        riscv__ndev=mm.WIRED_SOURCES - 1,
        phandle=handle,
    )
    node.properties.update({"#interrupt-cells": 1, "#address-cells": 0})
    return _Wires(handle, ())


def _aia(soc: Node, controllers: list[int], handles: _Handles, machine_level: bool) -> tuple[int, _Wires]:
    """Add IMSIC and APLIC of S mode, and for firmware those of M mode; return what S mode uses."""
    imsic, aplic = handles.next(), handles.next()
    if machine_level:
        machine_imsic = handles.next()
        _imsic(soc, mm.IMSIC_M, controllers, _M_EXTERNAL, machine_imsic)
        parent = _aplic(soc, mm.APLIC_M, machine_imsic, handles.next())
        parent.properties["riscv,children"] = aplic
        for name in ("riscv,delegate", "riscv,delegation"):  # QEMU's own name, and the binding's
            parent.properties[name] = [aplic, 1, mm.WIRED_SOURCES - 1]
    _imsic(soc, mm.IMSIC_S, controllers, _S_EXTERNAL, imsic)
    _aplic(soc, mm.APLIC_S, imsic, aplic)
    return imsic, _Wires(aplic, (_LEVEL_HIGH,))


def _imsic(soc: Node, place: mm.Region, controllers: list[int], interrupt: int, handle: int) -> None:
    node = soc.child(
        f"interrupt-controller@{place.base:x}",
        compatible=["qemu,imsics", "riscv,imsics"],
        reg=cells64(place.base, 0x1000 * len(controllers)),
        interrupt_controller=None,
        msi_controller=None,
        interrupts_extended=[cell for c in controllers for cell in (c, interrupt)],
        riscv__num_ids=mm.MSI_IDS,
        phandle=handle,
    )
    node.properties.update({"#interrupt-cells": 0, "#address-cells": 0, "#msi-cells": 0})


def _aplic(soc: Node, place: mm.Region, imsic: int, handle: int) -> Node:
    node = soc.child(
        f"interrupt-controller@{place.base:x}",
        compatible=["qemu,aplic", "riscv,aplic"],
        reg=cells64(*place),
        interrupt_controller=None,
        msi_parent=imsic,
        riscv__num_sources=mm.WIRED_SOURCES,
        phandle=handle,
    )
    node.properties.update({"#interrupt-cells": 2, "#address-cells": 0})
    return node


def _peripherals(root: Node, soc: Node, wires: _Wires, handles: _Handles) -> None:
    test = handles.next()
    soc.child(
        f"test@{mm.TEST.base:x}",
        compatible=["sifive,test1", "sifive,test0", "syscon"],
        reg=cells64(*mm.TEST),
        phandle=test,
    )
    root.child("reboot", compatible="syscon-reboot", regmap=test, offset=0, value=0x7777)
    root.child("poweroff", compatible="syscon-poweroff", regmap=test, offset=0, value=0x5555)
    soc.child(
        f"serial@{mm.UART0.base:x}",
        compatible="ns16550a",
        reg=cells64(*mm.UART0),
        clock_frequency=mm.UART_CLOCK_HZ,
        interrupts=wires.cells(mm.UART0_IRQ),
        interrupt_parent=wires.controller,
    )
    soc.child(
        f"rtc@{mm.RTC.base:x}",
        compatible="google,goldfish-rtc",
        reg=cells64(*mm.RTC),
        interrupts=wires.cells(mm.RTC_IRQ),
        interrupt_parent=wires.controller,
    )


def _virtio(soc: Node, wires: _Wires) -> None:
    """Add the slots of virtio-mmio, all of them: an empty one says so itself."""
    for index in range(mm.VIRTIO_SLOTS):
        place = mm.virtio_slot(index)
        soc.child(
            f"virtio_mmio@{place.base:x}",
            compatible="virtio,mmio",
            reg=cells64(*place),
            interrupts=wires.cells(mm.VIRTIO_IRQ + index),
            interrupt_parent=wires.controller,
        )


def _pcie(soc: Node, vm: Description, imsic: int | None, wires: _Wires) -> None:
    high = mm.pcie_high(vm.ram_size)
    # one row per slot modulo 4 and pin: child address (3), pin, parent, interrupt (PCI-to-PCI bridge swizzle)
    interrupt_map = [
        cell
        for slot in range(4)
        for pin in range(4)
        for cell in (slot << 11, 0, 0, pin + 1, wires.controller, *wires.cells(mm.PCIE_IRQ + (pin + slot) % 4))
    ]
    pci = soc.child(
        f"pci@{mm.PCIE_ECAM.base:x}",
        compatible="pci-host-ecam-generic",
        device_type="pci",
        reg=cells64(*mm.PCIE_ECAM),
        bus_range=[0, mm.PCIE_ECAM.size // (1 << 20) - 1],
        linux__pci_domain=0,
        dma_coherent=None,
        ranges=[
            _PCI_IO, *cells64(0, mm.PCIE_PIO.base, mm.PCIE_PIO.size),
            _PCI_MMIO32, *cells64(mm.PCIE_MMIO.base, mm.PCIE_MMIO.base, mm.PCIE_MMIO.size),
            _PCI_MMIO64, *cells64(high.base, high.base, high.size),
        ],
        interrupt_map_mask=[_PIN_MASK_SLOT, 0, 0, _PIN_MASK_PIN],
        interrupt_map=interrupt_map,
    )  # fmt: skip
    if imsic is not None:
        pci.properties["msi-parent"] = imsic
    pci.properties.update({"#address-cells": 3, "#size-cells": 2, "#interrupt-cells": 1})
