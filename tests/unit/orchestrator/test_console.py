"""The console copies both ways, keeps Ctrl-] for itself, and gives the terminal back as it was."""

from __future__ import annotations

import os
import pty
import socket
import termios
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator.console import Console, Terminal

WAIT_S = 10


class Guest:
    """The VM's end of the console."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._server.settimeout(WAIT_S)
        self._server.bind(str(path))
        self._server.listen()

    def accept(self) -> socket.socket:
        link, _ = self._server.accept()
        link.settimeout(WAIT_S)
        return link

    def close(self) -> None:
        self._server.close()


@pytest.fixture
def guest(tmp_path: Path) -> Iterator[Guest]:
    found = Guest(tmp_path / "console")
    yield found
    found.close()


@pytest.fixture
def terminal() -> Iterator[tuple[int, int]]:
    """Return both ends of a terminal."""
    ours, theirs = pty.openpty()
    yield ours, theirs
    os.close(ours)
    os.close(theirs)


def test_without_a_terminal_bytes_pass_unchanged_and_the_end_of_input_ends_nothing(guest: Guest) -> None:
    stdin, feed = os.pipe()
    seen, stdout = os.pipe()
    closed = threading.Event()
    console = Console(guest.path, Terminal(stdin, stdout), on_closed=closed.set)
    console.start()
    link = guest.accept()

    os.write(feed, b"typed \x1d\x03\n")
    assert link.recv(100) == b"typed \x1d\x03\n"
    os.close(feed)
    link.sendall(b"printed\r\n\xff")
    assert os.read(seen, 100) == b"printed\r\n\xff"
    assert not closed.is_set()
    link.close()

    assert closed.wait(WAIT_S)
    console.stop()
    for fd in (stdin, seen, stdout):
        os.close(fd)


def test_on_a_terminal_ctrl_c_is_the_guests_and_ctrl_bracket_is_ours(guest: Guest, terminal: tuple[int, int]) -> None:
    keyboard, tty = terminal
    before = termios.tcgetattr(tty)
    escaped, closed = threading.Event(), threading.Event()
    joined = Terminal(tty, tty)
    console = Console(guest.path, joined, on_escape=escaped.set, on_closed=closed.set)
    joined.raw()
    console.start()
    link = guest.accept()

    os.write(keyboard, b"a\x03\x1a\x1dlost")

    assert link.recv(100) == b"a\x03\x1a"
    assert escaped.wait(WAIT_S)
    console.stop()
    assert closed.wait(WAIT_S)
    assert termios.tcgetattr(tty) != before
    joined.restore()

    assert termios.tcgetattr(tty) == before
    link.close()


def test_a_reader_that_went_away_is_noticed(guest: Guest) -> None:
    stdin, feed = os.pipe()
    seen, stdout = os.pipe()
    os.close(seen)
    broken = threading.Event()
    console = Console(guest.path, Terminal(stdin, stdout), on_broken=broken.set)
    console.start()

    link = guest.accept()
    link.sendall(b"x")

    assert broken.wait(WAIT_S)
    console.stop()
    link.close()
    for fd in (stdin, feed, stdout):
        os.close(fd)


def test_it_waits_for_a_vm_that_does_not_listen_yet(tmp_path: Path) -> None:
    stdin, feed = os.pipe()
    closed = threading.Event()
    console = Console(tmp_path / "nothing", Terminal(stdin, feed), on_closed=closed.set)
    console.start()

    assert not closed.wait(0.1)
    console.stop()

    assert closed.wait(WAIT_S)
    os.close(stdin)
    os.close(feed)


def test_lines_for_people_end_as_the_mode_wants(terminal: tuple[int, int], capfd: pytest.CaptureFixture[str]) -> None:
    joined = Terminal(terminal[1], terminal[1])
    joined.say("one\ntwo")
    joined.raw()
    joined.say("three")
    joined.restore()

    assert capfd.readouterr().err == "one\ntwo\n\r\nthree\r\n"


def test_a_closed_descriptor_is_no_terminal() -> None:
    assert not Terminal(-1, -1).is_interactive
