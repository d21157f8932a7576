"""How a device goes on from the page of another process: reload and swap (docs/changing-devices.md).

What the guest can tell must be the same: BARs, vectors, doorbells, and all of configuration space that it cannot write.
A page of the same layout is taken over as it is; otherwise values are, by name, and the class's own hook does the rest.
Nothing here touches the page of before, so that whoever is refused leaves a device that goes on with it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devproc.before import Before, name_of, records
from devproc.describe import digest
from devproc.faults import kept
from protocol.errors import VersionMismatch
from protocol.layout import BARS, CONFIG_BAR, CONFIG_SIZE, DevicePage, WriteKind

if TYPE_CHECKING:
    from devproc.device import Device

_CHANGES = "the guest would see another device"


def go_on(device: Device, before: Before) -> None:
    """Fill the fresh page of ``device`` from ``before``.

    Raises:
        VersionMismatch: it cannot go on from there; the message says why.
    """
    same_class = before.layout.device == name_of(type(device))
    same = same_class and before.layout.schema == digest(device.registers, device.state_version)
    _check(device, before, same_class=same_class, same=same)
    places, end = device.layout()
    page, old = device.machine.page, before.page.shared
    if same and old.size == page.shared.size:
        page.adopt(old.bytes(0, old.size))
        device.declare(places)
        return
    level = device.machine.irq.word(page.irq_base)
    device.declare(places)
    device.power_on()
    if not same_class:
        device.compare(before)
    _take_values(device, before, same_class=same_class)
    page.shared.u8[end : end + kept.SIZE] = old.u8[old.size - kept.SIZE : old.size]
    page.bad_accesses = before.page.bad_accesses
    page.processed = page.posted
    if same_class and before.version != device.state_version:
        _convert(device, before)
    device.machine.line(bool(level))


def _convert(device: Device, before: Before) -> None:
    hook = device.conversions[before.version]
    try:
        getattr(device, hook)(before)
    except VersionMismatch:
        raise
    except Exception as error:  # of who wrote the device, and the one before serves on
        what = f"{type(error).__name__}: {error}"
        raise VersionMismatch(f"{hook} does not convert state_version {before.version}: {what}") from error


def _check(device: Device, before: Before, *, same_class: bool, same: bool) -> None:
    layout = before.layout
    if not same_class and layout.bound:
        raise VersionMismatch(f"nothing else can go on from it: {layout.bound}")
    if same_class and layout.version != device.state_version:
        if layout.version not in device.conversions:
            raise VersionMismatch(
                f"the page is of state_version {layout.version}, the source of {device.state_version}",
                hint=f"a method with @converts({layout.version}) would convert it (docs/changing-devices.md)",
            )
    elif same_class and not same:
        raise VersionMismatch(
            f"the source has other registers than the page, under the same state_version {layout.version}",
            hint=f"state_version = {layout.version + 1}, and a method with @converts({layout.version})",
        )
    device.check_before(before, same_class=same_class)
    page, bars = before.page, device.bars()
    found = [("doorbells", page.doorbells, device.doorbells), ("vectors", page.msix_vectors, device.vectors)]
    found += [(f"bytes in BAR {i}", page.bar(i).size, bars[i].size if i in bars else 0) for i in range(BARS)]
    for what, had, has in found:
        if had != has:
            raise VersionMismatch(f"it has {has} {what} where there were {had}: {_CHANGES}")


def _take_values(device: Device, before: Before, *, same_class: bool) -> None:
    """Take over what both know by one name, and what no name is for."""
    if device.transport == "pci":
        _take_configuration(device, before)
    _take_storage(device, before)
    for register in device.registers.all:
        if register.name in before.layout.registers and (same_class or not device.is_own(register)):
            register.__set__(device, before[register.name] & register.full)
    for name, record in records(device).items():
        for word in record.words():
            if f"{name}.{word}" in before:
                setattr(record, word, before[f"{name}.{word}"])
    for name, (at, size) in device.tables().items():
        content = before.table(name)
        if content is not None and len(content) == size:
            device.shared.u8[at : at + size] = content


def _take_configuration(device: Device, before: Before) -> None:
    """Take over what the guest has written into configuration space; the rest must be the same."""
    shared, had = device.shared, before.bar(CONFIG_BAR)
    has = shared.bytes(DevicePage.CONFIG, CONFIG_SIZE)
    mask = shared.bytes(DevicePage.CONFIG_MASK, CONFIG_SIZE)
    places = [*before.layout.registers.values(), *([*device.registers.place(r), r.width] for r in device.registers.all)]
    named = {byte for bar, at, width in places if bar == CONFIG_BAR for byte in range(at, at + width)}
    for at in range(CONFIG_SIZE):
        if at not in named and (had[at] ^ has[at]) & ~mask[at]:
            what = f"byte {at:#x} of its configuration space is {has[at]:#04x}, not {had[at]:#04x}"
            raise VersionMismatch(f"{what}: {_CHANGES}")
    mixed = bytes(new & ~bits | old & bits for new, old, bits in zip(has, had, mask, strict=True))
    shared.u8[DevicePage.CONFIG : DevicePage.CONFIG + CONFIG_SIZE] = mixed


def _take_storage(device: Device, before: Before) -> None:
    """Take over BARs that are plain storage without a register: the table of MSI-X, and its pending bits."""
    named = {device.registers.place(r)[0] for r in device.registers.all}
    for index, bar in device.bars().items():
        if bar.memory or index in named:
            continue
        kinds, image, had = device.kinds(index, bar), device.images[index], before.bar(index)
        for at in range(bar.size):
            if kinds[at] >> 4 in (WriteKind.STORE, WriteKind.DROP):
                device.shared.u8[image + at] = had[at]
