"""A device: a worker over its page (DESIGN §6, §9).

The device's guest-visible state lives in the page; the configuration is frozen; what belongs to this process alone
(files, threads, counters) is never saved. All methods run on the thread of the device loop. Nothing here opens a
socket or reads a clock, so that a device runs in a unit test without a process.

Life, called by ``devproc.host`` or a test: ``attach`` (fill a fresh page, or go on from the one a predecessor left),
then ``read``, ``write``, ``doorbell`` and the handlers of ``sources`` in any order; ``quiesce`` and ``resume``
around a stop at a descriptor boundary; ``reset`` for power-on; ``detach``; ``close`` at the end.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import TYPE_CHECKING, BinaryIO, ClassVar

from devproc.describe import digest
from devproc.faults import kept
from devproc.machine import Machine, Wiring
from devproc.registers import Bar, Register, RegisterMap
from devproc.state import Record
from devproc.tracing import Observer
from protocol.errors import ConfigError, VersionMismatch
from protocol.layout import (
    BARS,
    CONFIG_BAR,
    CONFIG_SIZE,
    BarFlags,
    DevicePage,
    ReadKind,
    WriteKind,
    kind,
)
from protocol.log import RateLimit
from protocol.memory import Shared

if TYPE_CHECKING:
    from devproc.before import Before
    from devproc.events import EventLoop
    from devproc.faults.faults import Faults

logger = logging.getLogger(__name__)

Property = int | str | bytes | bool | list[int] | list[str]
"""Of a device tree node: a cell, a text, bytes, lists of them; ``True`` is an empty one."""
ALL_ONES = 0xFFFF_FFFF_FFFF_FFFF
_ALIGN = 0x1000


class Device:
    """Base of all devices; subclasses declare ``Bar`` and ``Register`` attributes."""

    transport: ClassVar[str] = "pci"
    vectors: int = 0
    """MSI-X vectors; a subclass may set it per instance before it attaches."""
    doorbells: int = 0
    """Doorbells, each an eventfd of its own."""
    hands_on_doorbells: ClassVar[bool] = False
    """Whether another process waits for them in the place of the device loop."""
    calls: int = 0
    """Eventfds with which another process interrupts the guest (``DevicePage``)."""
    state_version: int = 1
    """Version of the private state in the page; another one is refused."""

    conversions: ClassVar[dict[int, str]] = {}
    """Methods that convert a page of another ``state_version``, by that: those marked with ``converts``."""

    request_header: ClassVar[type[Record] | None] = None
    """What a request begins with, for traces."""
    request_answer: ClassVar[type[Record] | None] = None
    """What the answer to a request ends with, for traces."""

    registers: ClassVar[RegisterMap] = RegisterMap([])

    def __init_subclass__(cls) -> None:
        for name, value in vars(cls).items():
            if isinstance(value, Register) and not isinstance(getattr(Device, name, value), Register):
                raise TypeError(f"{cls.__name__}.{name}: a register must not hide what every device has")
        cls.registers = RegisterMap.of(cls)
        hooks = [(name, version) for name, value in vars(cls).items() for version in getattr(value, "converts", ())]
        cls.conversions = cls.conversions | {version: name for name, version in hooks}

    def __init__(self) -> None:
        self.machine: Machine
        self.shared: Shared
        self.images: dict[int, int] = {}
        self.counters: Counter[str] = Counter()
        self.quiesced = False
        self.forget = False
        """Start from power-on at the next ``attach``, whatever the page holds."""
        self.pending: set[int] = set()
        """Doorbells that have rung and not been served."""
        self.ask_pause: Callable[[str], bool] = lambda _reason: False
        """Ask for a pause of the machine and return whether somebody can; then ``retry`` or ``give_up`` is called."""
        self.wiring = Wiring()
        """What connects guest and others past this process."""
        self.observer: Observer | None = None
        """There while somebody traces."""
        self.faults: Faults | None = None
        """There while something is to go wrong; ``known_faults`` stays when its last rule is gone."""
        self.known_faults: Faults | None = None
        self.loop: EventLoop | None = None
        """What runs the device, if it is not a test or a prompt."""
        self._bad = RateLimit()

    # what the declaration says

    def bars(self) -> dict[int, Bar]:
        """Return the BARs by number."""
        found = {r.bar.index: r.bar for r in self.registers.all if r.bar.index < BARS}
        for ancestor in reversed(type(self).__mro__):
            found |= {bar.index: bar for bar in vars(ancestor).values() if isinstance(bar, Bar) and bar.index < BARS}
        return found

    def state_size(self) -> int:
        """Return the bytes of private state in the page, at ``DevicePage.STATE``."""
        return 0

    def layout(self) -> tuple[dict[int, tuple[int, int]], int]:
        """Return where each BAR's image and kind bytes lie in the page, and the size of the page."""
        end = -(-(DevicePage.STATE + self.state_size()) // _ALIGN) * _ALIGN
        places = {}
        for index, bar in sorted(self.bars().items()):
            if bar.memory:
                places[index] = (0, 0)
                continue
            size = -(-bar.size // _ALIGN) * _ALIGN
            places[index] = (end, end + size)
            end += 2 * size
        return places, end

    @property
    def page_size(self) -> int:
        """Bytes of the device page."""
        return self.layout()[1] + kept.SIZE

    def kinds(self, index: int, bar: Bar) -> bytearray:
        """Return the kind bytes of one BAR."""
        kinds = self.registers.kinds(bar)
        page = self.machine.page
        first, size = page.doorbell_offset, page.doorbell_stride * self.doorbells
        if size and index == page.doorbell_bar:
            kinds[first : first + size] = bytes([kind(ReadKind.PAGE, WriteKind.DOORBELL)]) * size
        return kinds

    # life cycle

    def attach(self, machine: Machine) -> bool:
        """Join ``machine``: fill a fresh page, or go on from what is in it, or in that of the process before.

        Returns whether it went on.

        Raises:
            VersionMismatch: the page was filled by a device of another shape.
        """
        page, before = machine.page, machine.before
        places, end = self._join(machine)
        resumed = bool(page.initialised) and not self.forget
        if resumed:
            self._check_shape(places)
        if before is not None:
            from devproc.succession import go_on  # seldom needed

            go_on(self, before)
            page.initialised = resumed = True
        self.forget = False
        self.declare(places)
        self._adopt_faults(end)
        if resumed:
            if before is not None:
                self.adapt(before)
            self.recover()
            machine.repeat()
        else:
            self.power_on()
            page.initialised = 1
        return resumed

    def _join(self, machine: Machine) -> tuple[dict[int, tuple[int, int]], int]:
        """Take the page of a machine; return where in it the BARs are, and the end of what is the device's own."""
        self.machine = machine
        self.shared = machine.page.shared
        places, end = self.layout()
        if self.shared.size < end + kept.SIZE:
            raise ConfigError(f"the device page has {self.shared.size} bytes, {end + kept.SIZE} are needed")
        self.images = {index: image for index, (image, _) in places.items() if image} | {CONFIG_BAR: DevicePage.CONFIG}
        self.images |= self.registers.images(self.images)
        return places, end

    # going on from another process, whose page is another (``devproc.succession``)

    def consider(self, before: Before) -> None:
        """Try on a page of this process alone whether the device could go on from ``before``.

        Raises:
            VersionMismatch: it could not.
        """
        from devproc.succession import go_on

        trial = Machine.private(self.page_size)
        trial.page.express, trial.page.functions = before.page.express, before.page.functions
        self._join(trial)
        go_on(self, before)

    def tables(self) -> dict[str, tuple[int, int]]:
        """Return by name what the page has beside registers and records: offset, bytes."""
        return {}

    def bound(self) -> str:
        """Return why no device of another class can go on from this one; nothing if one could."""
        return ""

    def is_own(self, register: Register) -> bool:
        """Tell whether a register means what only this class knows, whatever another class calls so."""
        return False

    def check_before(self, before: Before, *, same_class: bool) -> None:
        """Refuse what the device cannot go on from; another class is refused if this is not extended.

        Raises:
            VersionMismatch: the message says why.
        """
        if not same_class:
            raise VersionMismatch(f"{type(self).__qualname__} cannot go on from {before.layout.name}")

    def compare(self, before: Before) -> None:
        """Compare the page, which is as after power-on, with that of another class.

        Raises:
            VersionMismatch: the guest would see the difference.
        """

    def adapt(self, before: Before) -> None:
        """Do what needs guest memory or the host, with the page as it was taken over; ``recover`` comes next.

        Raises:
            VersionMismatch: it cannot go on after all.
        """

    def claim(self) -> None:
        """Take what only one process can have of the host: before ``attach``.

        Raises:
            HostError: another has it still.
        """

    def unclaim(self) -> None:
        """Let another process have it: after ``detach``."""

    def _adopt_faults(self, end: int) -> None:
        """Go on with the faults that a predecessor has left in the page, or begin with those given already."""
        if self.known_faults is not None:
            self.known_faults.attach(end)
        elif kept.Table(self.shared, end).in_use:
            from devproc.faults.faults import Faults  # which few processes ever need

            Faults.of(self)

    def _check_shape(self, places: dict[int, tuple[int, int]]) -> None:
        page = self.machine.page
        if page.schema != digest(self.registers, self.state_version):
            raise VersionMismatch(
                "the page was filled by a device with other registers or another private state",
                hint="a restarted device must keep its shape; detach and remove it to change that",
            )
        same = page.doorbells == self.doorbells and page.msix_vectors == self.vectors
        for index in range(BARS):
            entry = page.bar(index)
            bar = self.bars().get(index)
            same &= entry.size == (bar.size if bar else 0) and (not bar or entry.image == places[index][0])
        if not same:
            raise VersionMismatch(
                "the page was filled by a device with other BARs, vectors or queues",
                hint="a restarted device must keep its shape; detach and remove it to change that",
            )

    def declare(self, places: dict[int, tuple[int, int]]) -> None:
        """Write the header of the page and all kind bytes: what follows from this build's declarations alone."""
        page = self.machine.page
        page.schema = digest(self.registers, self.state_version)
        page.doorbells = self.doorbells
        page.hands_on = int(self.hands_on_doorbells)
        page.msix_vectors = self.vectors
        for index, bar in self.bars().items():
            image, kinds = places[index]
            flags = (BarFlags.BITS64 if bar.bits64 else 0) | (BarFlags.PREFETCHABLE if bar.prefetchable else 0)
            flags |= BarFlags.MEMORY if bar.memory else 0
            page.bar(index).set(bar.size, image, kinds, flags)
            if image:
                page.shared.u8[kinds : kinds + bar.size] = self.kinds(index, bar)

    def power_on(self) -> None:
        """Bring page and device to the state after power-on. Subclasses extend it."""
        places, _ = self.layout()
        blank = {DevicePage.CONFIG: 0x1000, DevicePage.STATE: self.state_size()}
        blank |= {places[index][0]: bar.size for index, bar in self.bars().items() if not bar.memory}
        for start, size in blank.items():
            self.shared.u8[start : start + size] = bytes(size)
        for register in self.registers.all:
            register.__set__(self, register.reset)
        self.machine.line(False)

    def recover(self) -> None:
        """Go on from the page that a predecessor left. Subclasses extend it."""

    def reset(self) -> None:
        """Reset the function: host I/O is through and the page is as after power-on when it returns."""
        self.drain()
        page = self.machine.page
        page.initialised = 0  # killed half-way, it has left nothing to go on from: its successor powers on
        self.power_on()
        page.initialised = 1

    def quiesce(self) -> None:
        """Stop at a descriptor boundary and finish host I/O."""
        self.quiesced = True
        self.drain()

    def settle(self) -> None:
        """Do what ``quiesce`` does, and leave nothing for a successor to do: it may be of another kind."""
        self.quiesce()

    def resume(self) -> None:
        """Go on after ``quiesce``."""
        self.quiesced = False

    def drain(self) -> None:
        """Wait until no host I/O is under way and its results are in guest memory."""

    def detach(self) -> None:
        """Leave the machine, which the caller unmaps then; the page stays as it is."""
        self.drain()

    def release(self) -> None:
        """Drop every view of the machine's memory; it is unmapped next. Subclasses extend it."""
        if self.known_faults is not None:
            self.known_faults.leave()
        del self.machine, self.shared

    def close(self) -> None:
        """Give up all host resources."""

    # snapshots

    def save(self, file: BinaryIO) -> None:
        """Write what belongs to the guest and is not in the page; called while quiesced, nothing by default.

        Raises:
            BusvmError: it cannot be saved.
        """

    @property
    def saves(self) -> bool:
        """Whether ``save`` writes what another process of the class could not know."""
        return type(self).save is not Device.save

    def load(self, file: BinaryIO) -> None:
        """Take what ``save`` of another process wrote, before ``attach`` to the page that was saved with it.

        Raises:
            BusvmError: it does not fit.
        """
        raise ConfigError("it has nothing to be loaded", hint="the vm.toml of then")

    # events

    def figures(self) -> dict[str, int]:
        """Return what is counted: ``counters``, and what others count for the device."""
        return dict(self.counters)

    def sources(self) -> dict[int, Callable[[], None]]:
        """Return descriptors to watch, and what to call when one is readable."""
        return {}

    def ring(self, index: int) -> None:
        """Note that doorbell ``index`` has rung."""
        if self.faults is None or self.faults.signals.rung(index):
            self.pending.add(index)

    def doorbell(self, index: int) -> bool:
        """Serve doorbell ``index``; return whether there is more to do without another ring."""
        return False

    def retry(self) -> None:
        """The machine goes on after a pause that the device has asked for."""

    def give_up(self) -> None:
        """The machine could not be paused."""

    def memories(self) -> dict[int, tuple[int, bool]]:
        """Return by BAR a descriptor of the memory that it is, which stays the device's, and whether guests may write.

        Asked after ``attach``. Who comes after another may leave one out: the machine has it already.
        """
        return {}

    def device_tree(self) -> dict[str, Property]:
        """Return the properties of its node, for a bus on which nothing else says what it is."""
        return {}

    def configuration(self) -> dict[str, str]:
        """Return the configuration, for people: the fields of ``self.config``, if it is a dataclass."""
        config = getattr(self, "config", None)
        if config is None or isinstance(config, type) or not is_dataclass(config):
            return {}
        return {field.name: str(getattr(config, field.name)) for field in fields(config)}

    # accesses

    def read(self, bar: int, offset: int, size: int) -> int:
        """Return what a load of ``size`` bytes finds; outside the device it finds all ones."""
        if self.faults is None:
            return self.do_read(bar, offset, size)
        return self.faults.accesses.read(bar, offset, size, self.do_read)

    def do_read(self, bar: int, offset: int, size: int) -> int:
        """Do a load that nothing goes wrong with."""
        register = self.registers.at(bar, offset, size)
        if register is not None:
            return register.read(self)
        image = self.images.get(bar) if bar in (CONFIG_BAR, *self.bars()) else None
        length = CONFIG_SIZE if bar == CONFIG_BAR else self.bars()[bar].size if image is not None else 0
        if image is None or offset + size > length:
            self.bad_access("read", bar, offset, size)
            return ALL_ONES >> 64 - 8 * size
        data = bytearray(self.shared.u8[image + offset : image + offset + size])
        for at, found in self.registers.touching(bar, offset, size):
            value = found.read(self).to_bytes(found.width, "little")
            for index in range(found.width):
                if 0 <= at + index - offset < size:
                    data[at + index - offset] = value[index]
        return int.from_bytes(data, "little")

    def write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Do what a store of ``size`` bytes does; what no register takes is dropped and counted."""
        if self.faults is None:
            self.do_write(bar, offset, size, value)
        else:
            self.faults.accesses.write(bar, offset, size, value, self.do_write)

    def do_write(self, bar: int, offset: int, size: int, value: int) -> None:
        """Do a store that nothing goes wrong with."""
        register = self.registers.at(bar, offset, size)
        if register is not None and register.access != "r":
            register.write(self, value & register.full, register.full)
            return
        taken = False
        for at, found in self.registers.touching(bar, offset, size):
            if found.access == "r":
                continue
            shift = 8 * (at - offset)
            bits = (1 << 8 * size) - 1
            part, written = (value >> shift, bits >> shift) if shift >= 0 else (value << -shift, bits << -shift)
            found.write(self, part & found.full, written & found.full)
            taken = True
        if not taken:
            self.bad_access("write", bar, offset, size)

    def get_register(self, name: str) -> int:
        """Read a register by its name, as a guest would."""
        register = self.registers.by_name[name]
        return self.read(*self.registers.place(register), register.width)

    def set_register(self, name: str, value: int) -> None:
        """Write a register by its name, as a guest would."""
        register = self.registers.by_name[name]
        self.write(*self.registers.place(register), register.width, value)

    def line(self, level: bool) -> None:
        """Set the level of the device's wire."""
        self.machine.line(level)

    def bad_access(self, what: str, bar: int, offset: int, size: int) -> None:
        """Count an access that had to be ignored."""
        page = self.machine.page
        page.bad_accesses = page.bad_accesses + 1
        self.guest_error("bad_accesses", f"{what} bar={bar} offset={offset:#x} size={size} ignored")

    def guest_error(self, counter: str, text: str) -> None:
        """Count a mistake of the guest, and log it at debug level if not too many came in this second."""
        self.counters[counter] += 1
        if logger.isEnabledFor(logging.DEBUG) and self._bad.allow():
            logger.debug("guest: %s", text)
