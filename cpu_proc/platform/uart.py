"""ns16550a: the serial console (National Semiconductor PC16550D, register shift 0).

All of it runs on the hart's thread; the machine brings console input there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from cpu_proc.platform.mmio import Line

RBR_THR, IER, IIR_FCR, LCR, MCR, LSR, MSR, SCR = range(8)

IER_RX, IER_TX, IER_LINE = 0x01, 0x02, 0x04
IIR_NONE, IIR_TX, IIR_RX, IIR_LINE, IIR_TIMEOUT = 0x01, 0x02, 0x04, 0x06, 0x0C
LSR_DR, LSR_BI, LSR_THRE, LSR_TEMT = 0x01, 0x10, 0x20, 0x40
BREAK = 0x100  # a break condition among received characters; it reads as a zero
LCR_DLAB = 0x80
MCR_LOOP = 0x10
MSR_CONNECTED = 0xB0  # DCD, DSR, CTS
_TRIGGERS = (1, 4, 8, 14)
_FIFO = 16
_BACKLOG = 1 << 16  # input that waits for room in the FIFO


class Uart:
    """The UART; ``output`` gets each transmitted byte, ``line`` the interrupt level."""

    SAVED = (
        "_backlog",
        "_fifo",
        "_ier",
        "_lcr",
        "_mcr",
        "_scr",
        "_fcr",
        "_divisor",
        "_tx_pending",
    )

    def __init__(self, output: Callable[[int], None], line: Line) -> None:
        self._output = output
        self._line = line
        self._backlog: deque[int] = deque(maxlen=_BACKLOG)
        self.reset()

    def reset(self) -> None:
        """Return to power-on state; input that nobody read yet is kept."""
        self._fifo: deque[int] = deque()
        self._ier = self._lcr = self._mcr = self._scr = self._fcr = 0
        self._divisor = 12
        self._tx_pending = False
        self._update()

    def receive(self, data: bytes) -> None:
        """Take console input."""
        self._backlog.extend(data)
        self._refill()
        self._update()

    def receive_break(self, following: bytes) -> None:
        """Take a break condition and then ``following``: how a serial console asks Linux for a SysRq."""
        self._backlog.append(BREAK)
        self.receive(following)

    def _refill(self) -> None:
        room = _FIFO if self._fcr & 1 else 1
        while self._backlog and len(self._fifo) < room:
            self._fifo.append(self._backlog.popleft())

    def _cause(self) -> int:
        if self._ier & IER_RX and self._fifo:
            # below the trigger level the character timeout tells; nothing here waits for it
            enough = not self._fcr & 1 or len(self._fifo) >= _TRIGGERS[self._fcr >> 6]
            return IIR_RX if enough else IIR_TIMEOUT
        if self._ier & IER_TX and self._tx_pending:
            return IIR_TX
        return IIR_NONE

    def _update(self) -> None:
        self._line(self._cause() != IIR_NONE)

    def read(self, offset: int, size: int) -> int:
        """Read a register; wider accesses see one register."""
        if size != 1 or offset > SCR:
            return 0
        value = self._read(offset)
        self._update()
        return value

    def _read(self, offset: int) -> int:
        if offset == RBR_THR:
            if self._lcr & LCR_DLAB:
                return self._divisor & 0xFF
            value = self._fifo.popleft() if self._fifo else 0
            self._refill()
            return value & 0xFF
        if offset == IER:
            return self._divisor >> 8 if self._lcr & LCR_DLAB else self._ier
        if offset == IIR_FCR:
            cause = self._cause()
            if cause == IIR_TX:
                self._tx_pending = False  # reading IIR acknowledges an empty transmitter
            return cause | (0xC0 if self._fcr & 1 else 0)
        if offset == LSR:
            broken = LSR_BI if self._fifo and self._fifo[0] & BREAK else 0
            return LSR_THRE | LSR_TEMT | (LSR_DR if self._fifo else 0) | broken
        if offset == MSR:
            if self._mcr & MCR_LOOP:  # loopback: RTS→CTS, DTR→DSR, OUT1→RI, OUT2→DCD
                m = self._mcr
                return (m & 2) << 3 | (m & 1) << 5 | (m & 4) << 4 | (m & 8) << 4
            return MSR_CONNECTED
        return (0, 0, 0, self._lcr, self._mcr, 0, 0, self._scr)[offset]

    def write(self, offset: int, size: int, value: int) -> None:
        """Write a register."""
        if size != 1 or offset > SCR:
            return
        self._write(offset, value)
        self._update()

    def _write(self, offset: int, value: int) -> None:
        if offset == RBR_THR:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0xFF00 | value
            elif self._mcr & MCR_LOOP:
                self._backlog.append(value)
                self._refill()
                self._tx_pending = True
            else:
                self._output(value)
                self._tx_pending = True  # transmission takes no time
        elif offset == IER:
            if self._lcr & LCR_DLAB:
                self._divisor = self._divisor & 0x00FF | value << 8
            else:
                if value & IER_TX and not self._ier & IER_TX:
                    self._tx_pending = True
                self._ier = value & 0x0F
        elif offset == IIR_FCR:
            if value & 2 or (value ^ self._fcr) & 1:
                self._fifo.clear()
            self._fcr = value & 0xC9
            self._refill()
        elif offset == LCR:
            self._lcr = value
        elif offset == MCR:
            self._mcr = value & 0x1F
        elif offset == SCR:
            self._scr = value
