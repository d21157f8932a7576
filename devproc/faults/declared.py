"""What a rule may name of a device: all of it follows from what the device declares."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from devproc.registers import CONFIG
from devproc.state import Word
from devproc.virtio_transport import VirtioTransport
from protocol.layout import WriteKind

if TYPE_CHECKING:
    from devproc.device import Device

_NO_WRITE = {
    WriteKind.DROP: "is read-only",
    WriteKind.DOORBELL: "is a doorbell: doorbell=N",
    WriteKind.RING: "is a doorbell: doorbell=N",
    WriteKind.MATCH: "is a doorbell that passes the device by",
}


@dataclass(frozen=True)
class Declared:
    """The names of one device."""

    registers: tuple[str, ...] = ()
    no_write: dict[str, str] = field(default_factory=dict)
    """Registers whose writes no fault can reach, and why."""
    queues: int = 0
    roles: tuple[str, ...] = ()
    """What queues are for, by their number; empty where the device does not say."""
    fields: dict[str, Word] = field(default_factory=dict)
    """Words of a request's header."""
    header: int = 0
    """Its bytes."""
    answer: int = 0
    """Bytes that an answer ends with."""
    answers: dict[str, Word] = field(default_factory=dict)
    """Their words."""
    vectors: int = 0
    doorbells: int = 0

    def status(self) -> Word | None:
        """Return the word of an answer that says how the request went."""
        return next((word for word in self.answers.values() if word.names), None)

    @classmethod
    def of(cls, device: Device) -> Declared:
        """Return what ``device`` declares."""
        no_write = {}
        for register in device.registers.all:
            reason = _NO_WRITE.get(register.write_kind)
            if reason is None and register.bar is CONFIG and register.write_kind is WriteKind.STORE:
                reason = "is kept by the CPU process"  # which decodes addresses by it
            if reason is not None:
                no_write[register.name] = reason
        ours = not device.hands_on_doorbells  # otherwise requests and doorbells pass this process by
        queues = device.queue_count if ours and isinstance(device, VirtioTransport) else 0
        answer = device.request_answer
        return cls(
            registers=tuple(register.name for register in device.registers.all),
            no_write=no_write,
            queues=queues,
            roles=tuple(device.queue_role(index) for index in range(queues))
            if isinstance(device, VirtioTransport)
            else (),
            fields=device.request_header.words() if device.request_header else {},
            header=device.request_header.LENGTH if device.request_header else 0,
            answer=answer.LENGTH if answer else 0,
            answers=answer.words() if answer else {},
            vectors=device.vectors,
            doorbells=device.doorbells if ours else 0,
        )
