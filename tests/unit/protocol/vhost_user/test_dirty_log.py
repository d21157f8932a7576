"""The log of written pages: which bits are set, and that none is lost when two processes set them."""

from __future__ import annotations

import mmap
import os

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.vhost_user.dirty_log import PAGE, DirtyLog

SIZE = 64


def make(offset: int = 0) -> tuple[DirtyLog, int]:
    fd = os.memfd_create("log", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE + offset)
    return DirtyLog(os.dup(fd), SIZE, offset), fd


def pages(fd: int, offset: int = 0) -> set[int]:
    data = os.pread(fd, SIZE, offset)
    assert not any(os.pread(fd, offset, 0))
    return {bit for bit in range(8 * SIZE) if data[bit // 8] >> bit % 8 & 1}


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 8 * SIZE * PAGE - 1), st.integers(0, 40 * PAGE)), max_size=8),
    st.sampled_from([0, 8, 4096]),
)
def test_every_page_that_is_touched_is_marked_and_no_other(writes: list[tuple[int, int]], offset: int) -> None:
    log, fd = make(offset)

    for gpa, length in writes:
        log.mark(gpa, length)

    expected = {page for gpa, n in writes if n for page in range(gpa // PAGE, (gpa + n - 1) // PAGE + 1)}
    assert pages(fd, offset) == {page for page in expected if page < 8 * SIZE}
    log.close()
    os.close(fd)


def test_a_log_covers_as_many_pages_as_it_has_bits() -> None:
    log, fd = make()

    assert log.covers(8 * SIZE * PAGE)
    assert not log.covers(8 * SIZE * PAGE + 1)
    log.close()
    os.close(fd)


@pytest.mark.parametrize(("size", "offset"), [(0, 0), (SIZE + 1, 0), (SIZE, 8), (8, 4), (SIZE, 1 << 63)])
def test_a_log_that_cannot_be_is_refused_and_its_descriptor_closed(size: int, offset: int) -> None:
    fd = os.memfd_create("log", os.MFD_CLOEXEC)
    os.ftruncate(fd, SIZE)

    with pytest.raises(Malformed):
        DirtyLog(fd, size, offset)
    with pytest.raises(OSError, match="Bad file"):
        os.fstat(fd)


def test_two_processes_lose_no_mark_of_each_other() -> None:
    words = 3000
    fd, turns = os.memfd_create("log"), mmap.mmap(-1, 8)
    os.ftruncate(fd, 4 * words)

    child = os.fork()
    mine, other = (4, 0) if child == 0 else (0, 4)
    log = DirtyLog(os.dup(fd), 4 * words, 0)
    for word in range(words):
        turns[mine : mine + 4] = (word + 1).to_bytes(4, "little")
        while int.from_bytes(turns[other : other + 4], "little") <= word:
            os.sched_yield()
        for page in range(child == 0, 32, 2):  # each has every other bit of the word, at the same time
            log.mark((32 * word + page) * PAGE, 1)
    log.close()
    if child == 0:
        os._exit(0)

    assert os.waitpid(child, 0)[1] == 0
    assert os.pread(fd, 4 * words, 0) == b"\xff" * 4 * words
    os.close(fd)
    turns.close()
