"""The commands of the remote serial protocol: a payload in, a reply out (gdb manual, E.2-E.4, E.11).

What the client sends is never trusted: whatever cannot be understood is answered E22 and counted, what cannot be done
E01, what is not known with nothing, as the protocol asks.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable

from cpu_proc.gdbstub import registers
from cpu_proc.gdbstub.control import STEP_ALL, STEP_ENABLE, STEP_NO_INTERRUPTS, STEP_NO_TIMERS, Control, Stop
from cpu_proc.gdbstub.description import IN_G, target_xml
from cpu_proc.gdbstub.framing import PACKET_MAX, unescaped
from cpu_proc.gdbstub.memory import Memory
from cpu_proc.gdbstub.monitor import Monitor
from cpu_proc.hart import PRIVILEGES, Hart

OK, NOT_KNOWN = b"OK", b""
REFUSED, MALFORMED, FULL = b"E01", b"E22", b"E28"

_NUMBER = re.compile(rb"[0-9a-fA-F]{1,16}\Z")
_READ_MOST = PACKET_MAX // 2 - 8
_FEATURES = (
    f"PacketSize={PACKET_MAX:x};QStartNoAckMode+;qXfer:features:read+;swbreak+;hwbreak+;vContSupported+;binary-upload+"
)
_ALL = -1


class Malformed(Exception):
    """The client's packet is not one of the protocol's."""


def _number(text: bytes) -> int:
    if not _NUMBER.match(text):
        raise Malformed
    return int(text, 16)


def _two(text: bytes) -> tuple[int, int]:
    first, comma, second = text.partition(b",")
    if not comma:
        raise Malformed
    return _number(first), _number(second)


def _bytes(text: bytes) -> bytes:
    if len(text) % 2 or not re.fullmatch(rb"[0-9a-fA-F]*", text):
        raise Malformed
    return bytes.fromhex(text.decode())


class Commands:
    """One client's conversation. ``execute`` is called while all harts stand still."""

    def __init__(self, control: Control, counters: Counter[str]) -> None:
        self._control = control
        self._harts = control.machine.harts
        self._memory = Memory(control.machine.memory, self._harts)
        self._monitor = Monitor(control)
        self._counters = counters
        self._hart = self._harts[control.stop.hart]
        self._to_run: Hart | None = None
        self.understood: list[str] = []
        self.acks = True
        self._by_letter: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"?": self._why,
            b"c": lambda rest: self._old_resume("c", rest),
            b"C": lambda rest: self._old_resume("c", rest[3:]),
            b"D": self._detach,
            b"g": lambda _rest: registers.read_all(self._hart).hex().encode(),
            b"G": self._write_all,
            b"H": self._select,
            b"k": self._kill,
            b"m": self._read_memory,
            b"M": self._write_memory,
            b"p": self._read_register,
            b"P": self._write_register,
            b"s": lambda rest: self._old_resume("s", rest),
            b"S": lambda rest: self._old_resume("s", rest[3:]),
            b"T": self._is_alive,
            b"X": self._write_binary,
            b"x": self._read_binary,
            b"z": lambda rest: self._point(rest, insert=False),
            b"Z": lambda rest: self._point(rest, insert=True),
        }
        self._by_name: dict[bytes, Callable[[bytes], bytes | None]] = {
            b"qSupported": self._supported,
            b"QStartNoAckMode": self._no_acks,
            b"qXfer:features:read:": self._transfer,
            b"qAttached": lambda _rest: b"1",
            b"qC": lambda _rest: b"QC%x" % (self._hart.index + 1),
            b"qfThreadInfo": lambda _rest: b"m" + b",".join(b"%x" % (hart.index + 1) for hart in self._harts),
            b"qsThreadInfo": lambda _rest: b"l",
            b"qThreadExtraInfo,": self._about_thread,
            b"qRcmd,": self._monitor_command,
            b"qqemu.PhyMemMode": lambda _rest: b"%d" % self._memory.physical,
            b"Qqemu.PhyMemMode:": self._physical,
            b"qqemu.sstepbits": lambda _rest: (
                b"ENABLE=%x,NOIRQ=%x,NOTIMER=%x" % (STEP_ENABLE, STEP_NO_INTERRUPTS, STEP_NO_TIMERS)
            ),
            b"qqemu.sstep": lambda _rest: b"0x%x" % control.step_flags,
            b"Qqemu.sstep=": self._step_flags,
            b"vCont?": lambda _rest: b"vCont;c;C;s;S;t",
            b"vCont;": self._resume,
            b"vKill": self._kill,
        }

    def execute(self, payload: bytes) -> bytes | None:
        """Return the reply; ``None`` where it comes when the harts stop."""
        self._control.settle()
        handler, rest = self._find(payload)
        if handler is None:
            self._counters["unknown"] += 1
            return NOT_KNOWN
        try:
            return handler(rest)
        except Malformed:
            self._counters["malformed"] += 1
            return MALFORMED

    def _find(self, payload: bytes) -> tuple[Callable[[bytes], bytes | None] | None, bytes]:
        if payload[:1] in (b"q", b"Q", b"v"):
            for name, handler in self._by_name.items():
                rest = payload[len(name) :]
                if payload.startswith(name) and (name[-1:] in b":;,=?" or rest[:1] in (b"", b":", b";", b",")):
                    return handler, rest
            return None, b""
        return self._by_letter.get(payload[:1]), payload[1:]

    def interrupt(self) -> None:
        """Serve Ctrl-C."""
        self._control.interrupt()

    def stopped(self, stop: Stop) -> bytes:
        """Return the reply that ends a wait."""
        self._hart = self._harts[stop.hart]
        return stop.reply(self.understood)

    # what the client and the stub can do

    def _supported(self, rest: bytes) -> bytes:
        features = rest[1:].split(b";")
        self.understood = [kind for kind in ("swbreak", "hwbreak") if f"{kind}+".encode() in features]
        return _FEATURES.encode()

    def _no_acks(self, _rest: bytes) -> bytes:
        self.acks = False
        return OK

    def _transfer(self, rest: bytes) -> bytes:
        annex, colon, place = rest.partition(b":")
        if not colon:
            raise Malformed
        if annex != b"target.xml":
            return b"E00"
        offset, length = _two(place)
        part = target_xml()[offset : offset + min(length, _READ_MOST)]
        return (b"m" if offset + len(part) < len(target_xml()) else b"l") + part

    # threads: hart + 1

    def _thread(self, text: bytes) -> int:
        """Return the index of the hart of a thread id, or ``_ALL``; thread 0 is any."""
        if text[:1] == b"p":
            _, _, text = text.partition(b".")
        if text == b"-1":
            return _ALL
        number = _number(text)
        if number > len(self._harts):
            return len(self._harts)
        return number - 1 if number else self._hart.index

    def _existing(self, text: bytes) -> Hart | None:
        index = self._thread(text)
        return self._harts[index] if 0 <= index < len(self._harts) else None

    def _select(self, rest: bytes) -> bytes:
        operation, index = rest[:1], self._thread(rest[1:])
        if operation not in (b"g", b"c"):
            raise Malformed
        if index >= len(self._harts):
            return REFUSED
        if operation == b"c":
            self._to_run = None if index == _ALL or rest[1:] == b"0" else self._harts[index]
        elif index != _ALL:
            self._hart = self._harts[index]
        return OK

    def _is_alive(self, rest: bytes) -> bytes:
        return OK if self._existing(rest) else REFUSED

    def _about_thread(self, rest: bytes) -> bytes:
        hart = self._existing(rest)
        if hart is None:
            return REFUSED
        return f"hart {hart.index}, {hart.condition}, {PRIVILEGES[hart['PRIV']]} mode".encode().hex().encode()

    # registers and memory

    def _write_all(self, rest: bytes) -> bytes:
        data = _bytes(rest)
        if len(data) % 8 or len(data) > IN_G * 8:
            return MALFORMED
        for number in range(len(data) // 8):
            registers.write(self._hart, number, data[number * 8 : number * 8 + 8])
        return OK

    def _read_register(self, rest: bytes) -> bytes:
        value = registers.read(self._hart, _number(rest))
        return REFUSED if value is None else value.hex().encode()

    def _write_register(self, rest: bytes) -> bytes:
        number, equals, value = rest.partition(b"=")
        if not equals:
            raise Malformed
        return OK if registers.write(self._hart, _number(number), _bytes(value)) else REFUSED

    def _read_memory(self, rest: bytes) -> bytes:
        address, length = _two(rest)
        data = self._memory.read(self._hart, address, min(length, _READ_MOST))
        return data.hex().encode() if data or not length else REFUSED

    def _read_binary(self, rest: bytes) -> bytes:
        address, length = _two(rest)
        data = self._memory.read(self._hart, address, min(length, _READ_MOST))
        return b"b" + data if data or not length else REFUSED

    def _write_memory(self, rest: bytes) -> bytes:
        place, _, text = rest.partition(b":")
        return self._store(place, _bytes(text))

    def _write_binary(self, rest: bytes) -> bytes:
        place, _, data = rest.partition(b":")
        return self._store(place, unescaped(data))

    def _store(self, place: bytes, data: bytes) -> bytes:
        address, length = _two(place)
        if length != len(data):
            raise Malformed
        return OK if not data or self._memory.write(self._hart, address, data) else REFUSED

    def _physical(self, rest: bytes) -> bytes:
        self._memory.physical = _number(rest) != 0
        return OK

    # running

    def _why(self, _rest: bytes) -> bytes:
        return self._control.stop.reply(self.understood)

    def _old_resume(self, action: str, rest: bytes) -> bytes | None:
        hart = self._to_run or self._hart
        if rest:
            hart["PC"] = _signed(_number(rest)) & ~1
        if action == "s":
            self._control.step([hart])
            return self.stopped(self._control.stop)
        self._control.go([self._to_run] if self._to_run else list(self._harts))
        return None

    def _resume(self, rest: bytes) -> bytes | None:
        """Serve vCont: for each hart the first action that names it; where one steps, the others stay."""
        chosen: dict[int, str] = {}
        for action in rest.split(b";"):
            what, colon, thread = action.partition(b":")
            letter = what[:1].decode("latin-1")
            if letter.lower() not in ("c", "s", "t") or (letter in "CS" and not _NUMBER.match(what[1:])):
                raise Malformed
            index = self._thread(thread) if colon else _ALL
            if index >= len(self._harts):
                return REFUSED
            for hart in self._harts if index == _ALL else [self._harts[index]]:
                chosen.setdefault(hart.index, letter.lower())
        steps = [hart for hart in self._harts if chosen.get(hart.index) == "s"]
        runs = [hart for hart in self._harts if chosen.get(hart.index) == "c"]
        if steps:
            self._control.step(steps)
            return self.stopped(self._control.stop)
        if runs:
            self._control.go(runs)
            return None
        return self.stopped(self._control.stop)

    def _step_flags(self, rest: bytes) -> bytes:
        flags = _number(rest.removeprefix(b"0x"))
        if flags & ~STEP_ALL:
            return MALFORMED
        self._control.step_flags = flags
        return OK

    def _point(self, rest: bytes, *, insert: bool) -> bytes:
        kind, _, place = rest.partition(b",")
        if kind not in (b"0", b"1", b"2", b"3", b"4"):
            return NOT_KNOWN
        place, _, conditions = place.partition(b";")
        if conditions:  # not offered in qSupported
            raise Malformed
        address, size = _two(place)
        if not insert:
            self._control.points.remove(int(kind), address, size)
            return OK
        return OK if self._control.points.insert(int(kind), address, size) else FULL

    # ends

    def _detach(self, _rest: bytes) -> bytes:
        self._control.detach()
        return OK

    def _kill(self, _rest: bytes) -> bytes:
        """End the VM, as QEMU does."""
        self._control.machine.quit(0)
        return OK

    def _monitor_command(self, rest: bytes) -> bytes:
        text = self._monitor.answer(self._hart, _bytes(rest).decode(errors="replace").strip())
        return text.encode().hex().encode() or OK


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value
