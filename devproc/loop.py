"""The device loop: the one thread that touches the device.

It waits for the link, the doorbells, the device's own sources and calls from other threads, in one ``epoll``. A
doorbell may overtake the posted writes that came before it (DESIGN §7), so a rung queue is served only when the page
says that everything posted has been processed. Nothing here blocks but ``epoll`` and the drains a reset asks for.
"""

from __future__ import annotations

import io
import logging
import os
import time
from collections.abc import Callable
from functools import partial
from typing import BinaryIO

from devproc.attachment import Attachment, Offer
from devproc.before import Before, Layout
from devproc.device import Device
from devproc.events import EventLoop
from devproc.tracing import Observer
from protocol import messages
from protocol.errors import BusvmError, ConfigError, HostError, Malformed
from protocol.layout import DevicePage
from protocol.log import Context
from protocol.memory import Shared
from protocol.trace import SOURCE, Kind, TracePage

logger = logging.getLogger(__name__)

State = str
_TURNS = DevicePage.turns.offset >> 3  # type: ignore[attr-defined]
WAITING, ATTACHED, QUIESCED, FAILED = "waiting", "attached", "quiesced", "failed"


class DeviceLoop(EventLoop):
    """Runs one device in a machine; ``call`` and ``stop`` may come from any thread, the rest is the loop's own."""

    def __init__(self, device: Device, context: Context) -> None:
        super().__init__()
        self.device = device
        self.state: State = WAITING
        self.on_state: Callable[[], None] = lambda: None
        self._context = context
        self._attachment: Attachment | None = None
        self._loaded = b""  # a page to go on from
        self._turns = 0
        device.loop = self
        for fd, handler in device.sources().items():
            self.watch(fd, partial(self._source, handler))

    @property
    def epoch(self) -> int:
        """The incarnation that is attached, or 0."""
        attachment = self._attachment
        return attachment.offer.epoch if attachment else 0

    def counters(self) -> dict[str, int]:
        """Return the counters of device and link."""
        counted = self.device.figures()
        attachment = self._attachment
        if attachment is not None:
            counted |= {f"link_{name}": value for name, value in vars(attachment.link.counters).items()}
        return counted

    # the loop

    def run(self) -> None:
        """Serve until ``stop``, then finish host I/O and leave the machine."""
        busy = False
        try:
            while not self.stopping:
                if not busy:
                    self._count_turn(0)
                self.turn(0 if busy else None)
                self._serve()  # a doorbell with nothing posted before it does not wait for a look at the link
                self._drain_link()
                busy = self._serve()
        finally:
            self.detach()
            self.untrace()

    def woken(self) -> None:
        """Say in the page that the loop is at work: one that stays so for long is stopped, or hangs."""
        self._count_turn(1)

    def _count_turn(self, working: int) -> None:
        self._turns += 1 + (self._turns + working + 1 & 1)
        if self._attachment is not None:
            self._attachment.machine.page.shared.u64[_TURNS] = self._turns

    def _source(self, handler: Callable[[], None]) -> None:
        """Have the device handle a descriptor of its own."""
        observer = self.device.observer
        started = time.monotonic_ns() if observer else 0
        handler()
        if observer:
            observer.busy(SOURCE, started)

    def _ring(self, fd: int, index: int) -> None:
        os.eventfd_read(fd)
        self.device.ring(index)

    def _serve(self) -> bool:
        """Serve what has rung; return whether more can be done without waiting."""
        device, attachment = self.device, self._attachment
        if not device.pending or attachment is None or device.quiesced:
            return False
        page = attachment.machine.page
        if page.processed < page.posted:
            return False  # the rest of the posted writes wakes us
        for index in sorted(device.pending):
            device.pending.discard(index)
            observer = device.observer
            started = time.monotonic_ns() if observer else 0
            if device.doorbell(index):
                device.pending.add(index)
            if observer:
                observer.busy(index, started)
        return bool(device.pending)

    def _drain_link(self) -> None:
        """Handle messages until there are none: ZeroMQ's descriptor only signals again after that."""
        while self._attachment is not None and not self.stopping:
            faults = self.device.faults
            if faults is not None and faults.accesses.held:
                return
            message = self._attachment.link.receive()
            if message is None:
                return
            attachment = self._attachment
            if faults is None or not faults.accesses.postpones(message, partial(self._handle, message, attachment)):
                self._handle(message, attachment)

    def _handle(self, message: messages.Any, attachment: Attachment) -> None:
        link = attachment.link
        observer = self.device.observer
        started = time.monotonic_ns() if observer else 0
        if isinstance(message, messages.Write):
            page = attachment.machine.page
            if message.seq <= page.processed:
                self.device.counters["repeated_writes"] += 1
                return
            if message.seq != page.processed + 1:
                self.device.counters["skipped_writes"] += message.seq - page.processed - 1
            self.device.write(message.bar, message.offset, message.size, message.value)
            page.processed = message.seq  # after its effect is in the page
            if observer:
                observer.served(Kind.SERVED, message, message.value, started)
        elif isinstance(message, messages.Read):
            value = self.device.read(message.bar, message.offset, message.size)
            _answer_in_page(attachment, message.seq, value)
            link.send(messages.Value(link.epoch, message.seq, value))
            if observer:
                observer.served(Kind.ANSWERED, message, value, started)
        elif isinstance(message, messages.Barrier):
            self._barrier(message, attachment)
        else:
            link.send(messages.Fault(link.epoch, message.seq, f"{type(message).__name__} is not for a device"))

    def _barrier(self, message: messages.Barrier, attachment: Attachment) -> None:
        actions: dict[str, Callable[[], None]] = {
            "flush": lambda: None,
            "reset": self.device.reset,
            "quiesce": self.device.quiesce,
            "settle": self.device.settle,
            "resume": self.device.resume,
        }
        link = attachment.link
        action = actions.get(message.what)
        if action is None:
            link.send(messages.Fault(link.epoch, message.seq, f"no barrier {message.what!r}"))
            return
        action()
        self._enter(QUIESCED if self.device.quiesced else ATTACHED)
        _answer_in_page(attachment, message.seq, 0)
        link.send(messages.Done(link.epoch, message.seq))

    # tracing

    def trace(self, page: TracePage, lifeline: int) -> None:
        """Write events into ``page`` until ``untrace``, or until the lifeline is cut.

        Raises:
            ConfigError: somebody traces already. Page and lifeline are closed.
        """
        device = self.device
        header, answer = (record.LENGTH if record else 0 for record in (device.request_header, device.request_answer))
        observer = Observer(page, lifeline, header=header, answer=answer)
        if device.observer is not None:
            observer.close()
            raise ConfigError("somebody traces this device already")
        try:
            self.watch(lifeline, self.untrace)
        except OSError as error:
            observer.close()
            raise Malformed(f"the lifeline is none: {error.strerror}") from error
        device.observer = observer

    def untrace(self) -> None:
        """Write no more events."""
        observer = self.device.observer
        if observer is not None:
            self.device.observer = None
            self.unwatch(observer.lifeline)
            observer.close()

    # joining and leaving

    def attach(self, offer: Offer) -> dict[str, int]:
        """Join the machine that offers itself.

        Raises:
            BusvmError: the offer does not fit; the device stays as it was.
        """
        device = self.device
        doorbells = device.doorbells
        if self._attachment is not None:
            offer.close()
            raise ConfigError("attached already", hint="Detach comes first")
        self._load(offer)
        attachment = Attachment(offer, page_size=device.page_size, doorbells=doorbells, calls=device.calls)
        self._context.set(vm=offer.vm, epoch=offer.epoch)
        try:
            page = attachment.machine.page
            if self._loaded and not page.initialised:
                page.adopt(self._loaded)
            self._loaded = b""
            device.claim()
            try:
                resumed = device.attach(attachment.machine)
            except BaseException:
                device.unclaim()  # the one before goes on with it
                raise
        except BaseException:
            attachment.close()
            raise
        attachment.forget_before()
        self._attachment = attachment
        self._count_turn(1)
        self.watch(attachment.link.socket.fileno(), lambda: None)
        for index, fd in enumerate(() if device.hands_on_doorbells else attachment.doorbells):
            self.watch(fd, lambda fd=fd, index=index: self._ring(fd, index))  # type: ignore[misc]
        device.quiesced = False
        device.pending.update(range(doorbells) if resumed else ())
        self._enter(ATTACHED)
        logger.info("attached%s", ", going on from the page" if resumed else "")
        return {"version": offer.version, "epoch": offer.epoch, "resumed": int(resumed)}

    def take_state(self, beside: BinaryIO) -> bytes:
        """Return the page of the attached device, with what it has beside in ``beside``; it goes on afterwards.

        Raises:
            BusvmError: it is not attached, or cannot be saved.
        """
        attachment, device = self._attachment, self.device
        if attachment is None:
            raise ConfigError("it is attached to no machine, and has no state")
        was_quiesced = device.quiesced
        device.quiesce()
        try:
            device.save(beside)
            shared = attachment.machine.page.shared
            return shared.bytes(0, shared.size)
        finally:
            if not was_quiesced:
                device.resume()

    def load(self, page: bytes, beside: bytes) -> None:
        """Keep a state for the next attachment to a fresh page.

        Raises:
            BusvmError: the device is attached, or what it had beside the page does not fit.
        """
        if self._attachment is not None:
            raise ConfigError("it is attached", hint="its state comes first")
        if beside:
            self.device.load(io.BytesIO(beside))
        self._loaded = page

    def layout(self) -> tuple[str, bool]:
        """Return where in the page everything is, and whether there is something beside it.

        Raises:
            BusvmError: it is not attached.
        """
        if self._attachment is None:
            raise ConfigError("it is attached to no machine, and has no page")
        return Layout.of(self.device).to_text(), self.device.saves

    def consider(self, page: int, page_size: int, layout: str) -> None:
        """Try whether the device could go on from the page of another process; the descriptor stays the caller's.

        Raises:
            BusvmError: it could not.
        """
        shared = Shared(os.dup(page), page_size)
        try:
            if self._attachment is not None:
                raise ConfigError("it is attached, and considers no other page")
            self.device.consider(Before(DevicePage(shared), Layout.from_text(layout)))
        finally:
            shared.close()

    def _load(self, offer: Offer) -> None:
        """Load what the device had beside its page, and close where it came from."""
        if offer.saved < 0:
            return
        try:
            with os.fdopen(offer.saved, "rb", closefd=False) as file:
                self.device.load(file)
        except OSError as error:
            offer.close()
            raise HostError(f"its state cannot be read: {error.strerror}") from error
        except BusvmError:
            offer.close()
            raise
        os.close(offer.saved)

    def save(self, fd: int) -> None:
        """Write what belongs to the guest and is not in the page into ``fd``, which stays open.

        Raises:
            BusvmError: the device is not quiesced, cannot be saved, or there is no room.
        """
        if not self.device.quiesced:
            raise ConfigError("the device is not quiesced")
        try:
            with os.fdopen(fd, "wb", closefd=False) as file:
                self.device.save(file)
        except OSError as error:
            raise HostError(f"it cannot be written: {error.strerror}") from error

    def detach(self) -> None:
        """Stop at a descriptor boundary, finish host I/O, leave; the page stays."""
        attachment = self._attachment
        if attachment is None:
            return
        self.device.detach()
        self.unwatch(attachment.link.socket.fileno())
        for fd in () if self.device.hands_on_doorbells else attachment.doorbells:
            self.unwatch(fd)
        self._attachment = None
        self.device.pending.clear()
        self.device.release()
        self.device.unclaim()
        attachment.close()
        self._enter(WAITING)
        logger.info("detached")

    def reset(self) -> None:
        """Bring the function to its power-on state; only while it is not attached.

        Raises:
            ConfigError: it is attached, so that ``cpu_proc`` must ask for it over the link.
        """
        if self._attachment is not None:
            raise ConfigError("attached: reset the machine instead")
        self.device.forget = True

    def _enter(self, state: State) -> None:
        if state != self.state:
            self.state = state
            self.on_state()


def _answer_in_page(attachment: Attachment, seq: int, value: int) -> None:
    """Leave the answer where a waiting hart looks first; its number last."""
    page = attachment.machine.page
    page.reply_value = value
    page.reply_seq = seq
