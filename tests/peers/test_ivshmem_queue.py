"""The queue of examples/ivshmem on the host, in C with sanitizers and in Python: whole, late, killed, lied to."""

from __future__ import annotations

import importlib
import mmap
import random
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.guest.ivshmem import EXAMPLES, MESSAGES, PYTHON, SANITIZED, Program, compiled
from tests.unit.devproc.ivshmem.rig import Process

pytestmark = [
    pytest.mark.peer,
    pytest.mark.timeout(60),
    pytest.mark.skipif(not shutil.which("gcc"), reason="gcc is not installed"),
]

ORDER = 9
Words = Sequence[str | Path]


def ivmsg() -> Any:
    """Return the example as a module."""
    sys.path.insert(0, str(EXAMPLES))
    try:
        return importlib.import_module("ivmsg")
    finally:
        sys.path.remove(str(EXAMPLES))


@pytest.fixture(scope="module")
def binary(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled(tmp_path_factory.mktemp("c") / "ivmsg", *SANITIZED)


@pytest.fixture(params=["c", "python"])
def words(request: pytest.FixtureRequest, binary: Path) -> Words:
    return PYTHON if request.param == "python" else (binary,)


@pytest.fixture
def memory(tmp_path: Path) -> Path:
    path = tmp_path / "memory"
    path.write_bytes(bytes(1 << 18))
    return path


@pytest.fixture
def other(memory: Path) -> Iterator[Any]:
    """Return the other side, of a program of the test's own: it plays by the rules until a test does not."""
    with memory.open("r+b") as file, mmap.mmap(file.fileno(), 0) as mapped:
        view = memoryview(mapped)
        opened: list[Any] = []

        def make(side: int) -> tuple[Any, memoryview]:
            opened.append(ivmsg().Queue(view, side, ORDER, 0, rings=False, random=77))
            return opened[-1], view

        yield make
        for queue in opened:
            queue.close()
        view.release()


def connect(queue: Any) -> None:
    """Wait for a session."""
    deadline = time.monotonic() + 10
    while not queue.connect():
        assert time.monotonic() < deadline
        time.sleep(0.001)


def hears_that_it_is_gone(queue: Any) -> bool:
    """Look for the other side."""
    try:
        queue.put(b"y" * 20)
    except ivmsg().Gone:
        return True
    return False


@pytest.mark.parametrize(("sender", "receiver"), [("c", "c"), ("c", "python"), ("python", "c"), ("python", "python")])
@pytest.mark.parametrize(("order", "size"), [(8, 100), (16, 64)])
def test_all_messages_arrive(binary: Path, memory: Path, sender: str, receiver: str, order: int, size: int) -> None:
    by_name: dict[str, Words] = {"c": (binary,), "python": PYTHON}
    options = ("--memory", memory, "--order", str(order), "--size", str(size), "--count", "20000")

    receiving = Program(by_name[receiver], "receive", *options)
    sent, received = Program(by_name[sender], "send", *options).result(), receiving.result()

    assert sent.messages == received.messages == 20_000
    assert sent.whole
    assert received.whole


def test_programs_of_the_host_ring_each_other(tmp_path: Path) -> None:
    server = Process(tmp_path, "--size", "1M", "--vectors", "1")
    try:
        options = ("--socket", server.path, "--order", "10")
        receiving = Program(PYTHON, "receive", *options)
        sent, received = Program(PYTHON, "send", *options).result(), receiving.result()
    finally:
        server.close()

    assert (sent.messages, received.messages) == (MESSAGES, MESSAGES)
    assert received.whole
    assert sent.rings >= received.sleeps / 2 > 0


def test_nobody_at_the_other_side_is_one_line(words: Words, memory: Path) -> None:
    status, said, complained = Program(words, "send", "--memory", memory, "--timeout", "0.3").end()

    assert (status, said) == (1, "")
    assert complained.endswith("nobody is at the other side\n")


def test_a_killed_receiver_is_noticed_and_another_one_gets_all(words: Words, memory: Path, other: Any) -> None:
    options = ("--memory", memory, "--order", str(ORDER), "--timeout", "5")
    queue, _ = other(0)
    first = Program(words, "receive", *options, "--count", "1000000")
    connect(queue)
    assert queue.put(b"x" * 20)
    while not queue.drained():
        pass
    first.kill()
    first.end()
    second = Program(words, "receive", *options, "--count", "1")

    deadline = time.monotonic() + 10
    while not hears_that_it_is_gone(queue):
        assert time.monotonic() < deadline
    connect(queue)
    assert queue.put(ivmsg().fill(0, 64))

    assert second.result().messages == 1


def test_the_other_size_of_rings_is_told(words: Words, memory: Path, other: Any) -> None:
    other(1)

    _, _, complained = Program(words, "send", "--memory", memory, "--order", "12", "--timeout", "0.3").end()

    assert complained.endswith("the other side has rings of another size\n")


LIES = {
    "more than the ring": (0x40, 1 << 20, "sent more than the ring holds"),
    "backwards": (0x40, 0xFFFF_FFF8, "sent more than the ring holds"),
    "no multiple": (0x40, 13, "sent more than the ring holds"),
    "taken too much": (0x80, 1 << 20, "took what was never sent"),
    "another generation": (0x08, 5, "left or started again"),
    "gone": (0x08, 0, "left or started again"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_word_that_is_not_true_ends_in_a_line(words: Words, memory: Path, other: Any, lie: str) -> None:
    at, value, complaint = LIES[lie]
    verb, side = ("send", 1) if at == 0x80 else ("receive", 0)
    queue, view = other(side)
    program = Program(words, verb, "--memory", memory, "--order", str(ORDER), "--timeout", "5", "--count", "1000000")
    connect(queue)
    deadline = time.monotonic() + 10
    if verb == "receive":
        assert queue.put(b"x" * 20)
        while not queue.drained():
            assert time.monotonic() < deadline
    else:
        while not view.cast("I")[0x40 // 4]:
            assert time.monotonic() < deadline
        value += view.cast("I")[0x40 // 4]  # beyond its own head, and so far that it cannot get there

    view.cast("I")[(side * 0x200 + at) // 4] = value

    status, _, complained = program.end()
    assert (status, complained.count("\n")) == (1, 1)
    assert complaint in complained


@pytest.mark.parametrize(("header", "complaint"), [
    ((0xFFFF_FFFF, 0), "longer than what was sent"), ((300, 0), "longer than what was sent"),
    ((16, 7), "wrong sequence number"),
])  # fmt: skip
def test_a_header_that_is_not_true_ends_in_a_line(
    words: Words, memory: Path, other: Any, header: tuple[int, int], complaint: str
) -> None:
    queue, view = other(0)
    program = Program(words, "receive", "--memory", memory, "--order", str(ORDER), "--timeout", "5")
    connect(queue)
    cells = view.cast("I")
    cells[0x1000 // 4], cells[0x1004 // 4] = header

    cells[0x40 // 4] = 32

    status, _, complained = program.end()
    assert (status, complained.count("\n")) == (1, 1)
    assert complaint in complained


@pytest.mark.parametrize("verb", ["send", "receive", "echo"])
def test_garbage_everywhere_never_ends_it_otherwise(words: Words, memory: Path, other: Any, verb: str) -> None:
    dice = random.Random(verb)
    side = 1 if verb == "send" else 0
    queue, view = other(side)
    values = (0, 1, 7, 8, 1 << ORDER, (1 << ORDER) + 8, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)
    places = [*range(0, 0x400, 4), *range(0x1000, 0x1000 + (2 << ORDER), 4)]
    cells = view.cast("I")
    for _ in range(4):
        program = Program(words, verb, "--memory", memory, "--order", str(ORDER), "--timeout", "0.3")
        with suppress(ivmsg().Gone, ivmsg().Bad):  # by garbage of its own
            connect(queue)
            for _ in range(dice.choice((0, 3))):
                queue.put(b"z" * 24)
        for _ in range(dice.choice((1, 100, 10_000))):
            cells[dice.choice(places) // 4] = dice.choice((*values, dice.getrandbits(32)))
        status, _, complained = program.end()
        assert status in (0, 1), complained
        assert complained.count("\n") <= 1, complained
        queue.close()
        cells_of_other = side * 0x200 // 4
        for word in range(128):
            cells[cells_of_other + word] = 0
        queue, _ = other(side)
