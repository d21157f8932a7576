"""Interrupts: causes, their mask, and the message or wire that they become (82574 §7.4, §10.2.4).

A cause that is not masked sends the message that IVAR has for it, once: EIAC then clears it and masks it, so that the
driver hears nothing more until it writes IMS at the end of its poll. That is all the moderation there is: EITR is
kept for the guest, and waits for nobody.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from devproc.e1000e.spec import CAUSES, IVAR_VALID, OTHER_CAUSES, Cause, CtrlExt

if TYPE_CHECKING:
    from devproc.e1000e.registers import RegisterFile

_FIELDS = {Cause.RXQ0: 0, Cause.RXQ1: 4, Cause.TXQ0: 8, Cause.TXQ1: 12, Cause.OTHER: 16}
"""Causes that have a message, and where IVAR says which."""


class Interrupts:
    """What ICR, IMS and the registers around them do."""

    def __init__(self, device: RegisterFile) -> None:
        self._device = device

    def received(self) -> None:
        """A frame is in the guest's memory."""
        self.raise_(Cause.RXQ0 if self._device.msix_enabled else Cause.RXT0)

    def transmitted(self) -> None:
        """A descriptor was written back whose sender wants to hear of it."""
        self.raise_(Cause.TXQ0 if self._device.msix_enabled else Cause.TXDW)

    def raise_(self, causes: int) -> None:
        """Set causes, and interrupt if the mask lets one through."""
        device = self._device
        if causes & OTHER_CAUSES and device.msix_enabled:
            causes |= Cause.OTHER
        before = device.icr
        if causes & ~before:
            device.icr = before | causes & CAUSES
            self.update()

    def unmask(self, causes: int) -> None:
        """Set bits of IMS; what has waited for them interrupts now."""
        self._device.ims = self._device.ims | causes & CAUSES
        self.update()

    def mask(self, causes: int) -> None:
        """Clear bits of IMS."""
        self._device.ims = self._device.ims & ~causes
        self.update()

    def read(self) -> int:
        """Return ICR as a read finds it, and clear it: unless something is unmasked and nothing of it pending."""
        device = self._device
        causes, unmasked = device.icr, device.ims
        if not causes & unmasked:
            if not unmasked:
                device.icr = 0
            return causes
        if device.ctrl_ext & CtrlExt.IAME:
            device.ims = unmasked & ~device.iam
        device.icr = 0
        self.update()
        return causes | Cause.INT_ASSERTED

    def acknowledge(self, causes: int) -> None:
        """Clear causes: a write to ICR."""
        device = self._device
        if device.ctrl_ext & CtrlExt.IAME and device.icr & device.ims:
            device.ims = device.ims & ~device.iam
        device.icr = device.icr & ~causes
        self.update()

    def update(self) -> None:
        """Send the messages of pending causes that are new, or hold the wire while there are any."""
        device = self._device
        pending = device.icr & device.ims
        if not device.msix_enabled:
            device.line(bool(pending))
            return
        new = pending & ~device.state.signalled
        if pending != device.state.signalled:
            device.state.signalled = pending
        for cause, shift in _FIELDS.items() if new else ():
            if new & cause:
                self._send(cause, device.ivar >> shift & 0xF)

    def _send(self, cause: int, entry: int) -> None:
        device = self._device
        if not entry & IVAR_VALID:
            return
        if device.ctrl_ext & CtrlExt.EIAME:
            device.ims = device.ims & ~(device.iam & cause)
        if device.eiac & cause:
            device.icr = device.icr & ~cause
            device.ims = device.ims & ~cause
        device.state.signalled = device.icr & device.ims
        device.interrupt(entry & 7)
