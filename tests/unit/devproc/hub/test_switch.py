"""Where a switch sends frames, what it learns, and that nobody waits for who has stalled."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devproc.hub.switch import MACS_MAX, Switch
from devproc.network.backend import PLAIN, Buffer

A, B, C = (bytes([2, 0, 0, 0, 0, n]) for n in (1, 2, 3))
ALL = b"\xff" * 6


class End:
    """A port that a test looks into."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.sent: list[bytes] = []
        self.full = False
        self.resumed = 0
        self.flushed = 0

    def send(self, header: Buffer, frame: Buffer) -> bool:
        if not self.full:
            self.sent.append(bytes(frame))
        return not self.full

    def flush(self) -> None:
        self.flushed += 1

    def resume(self) -> None:
        self.resumed += 1


def switch(clock: list[float] | None = None) -> tuple[Switch, End, End, End]:
    now = clock or [0.0]
    made = Switch(lambda: now[0])
    ports = End("a"), End("b"), End("c")
    for port in ports:
        made.add(port)
    return made, *ports


def frame(to: bytes, source: bytes) -> bytes:
    return to + source + b"\x88\xb5" + bytes(50)


def test_what_nobody_is_known_for_goes_to_all_others() -> None:
    s, a, b, c = switch()
    assert s.forward(a, PLAIN, frame(B, A))
    assert (len(a.sent), len(b.sent), len(c.sent)) == (0, 1, 1)


def test_an_address_is_learnt_and_moves() -> None:
    s, a, b, c = switch()
    s.forward(b, PLAIN, frame(ALL, B))
    b.sent.clear(), c.sent.clear(), a.sent.clear()
    s.forward(a, PLAIN, frame(B, A))
    assert (len(b.sent), len(c.sent)) == (1, 0)
    assert s.macs() == {B.hex(":"): ("b", 0.0), A.hex(":"): ("a", 0.0)}
    s.forward(c, PLAIN, frame(ALL, B))  # it was plugged in elsewhere
    b.sent.clear(), c.sent.clear()
    s.forward(a, PLAIN, frame(B, A))
    assert (len(b.sent), len(c.sent)) == (0, 1)


def test_a_frame_to_its_own_port_goes_nowhere() -> None:
    s, a, b, c = switch()
    s.forward(a, PLAIN, frame(ALL, A))
    for port in (a, b, c):
        port.sent.clear()
    assert s.forward(a, PLAIN, frame(A, C))
    assert a.sent + b.sent + c.sent == []


def test_what_was_not_heard_for_long_is_forgotten() -> None:
    now = [0.0]
    s, a, b, c = switch(now)
    s.forward(b, PLAIN, frame(ALL, B))
    now[0] = 301
    a.sent.clear(), b.sent.clear(), c.sent.clear()
    s.forward(a, PLAIN, frame(B, A))
    assert len(c.sent) == 1


def test_invented_addresses_do_not_fill_memory() -> None:
    s, a, _, _ = switch()
    for number in range(MACS_MAX + 100):
        s.forward(a, PLAIN, frame(ALL, b"\x02\0" + number.to_bytes(4, "big")))
    assert len(s.macs()) == MACS_MAX
    s.forward(a, PLAIN, frame(ALL, b"\x01\0\0\0\0\1"))  # nobody's: it is a group's
    assert "01:00:00:00:00:01" not in s.macs()


def test_one_that_is_behind_slows_its_sender_but_not_a_flood() -> None:
    s, a, b, c = switch()
    s.forward(b, PLAIN, frame(ALL, B))
    b.full = True
    assert not s.forward(a, PLAIN, frame(B, A))
    assert s.forward(a, PLAIN, frame(ALL, A))
    assert len(c.sent) == 2
    assert s.counters["waited"] == 1
    assert s.counters["lost_for_many"] == 1
    s.remove(b)
    assert a.resumed == 1
    assert B.hex(":") not in s.macs()


def test_each_port_that_got_something_is_flushed_once() -> None:
    s, a, b, c = switch()
    s.forward(a, PLAIN, frame(ALL, A))
    s.forward(a, PLAIN, frame(ALL, A))
    s.flush()
    s.flush()
    assert (a.flushed, b.flushed, c.flushed) == (0, 1, 1)


@given(st.lists(st.tuples(st.integers(0, 2), st.binary(min_size=14, max_size=40)), max_size=30))
def test_no_frame_is_lost_doubled_or_returned(frames: list[tuple[int, bytes]]) -> None:
    s, *ports = switch()
    for number, data in frames:
        before = [len(port.sent) for port in ports]
        assert s.forward(ports[number], PLAIN, data)
        got = [len(port.sent) - b for port, b in zip(ports, before, strict=True)]
        assert got[number] == 0
        assert max(got) <= 1
