"""Joins this terminal, or standard input and output, to the serial console of a VM.

Two threads with blocking calls, because a terminal or a pipe that somebody stopped must not stop the supervision.
On a terminal it is in raw mode meanwhile: every key, Ctrl-C too, goes to the guest, except Ctrl-].
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import termios
import threading
import time
import tty
from collections.abc import Callable
from pathlib import Path
from typing import Any

ESCAPE = b"\x1d"  # Ctrl-]
_CHUNK = 65536
_RETRY_S = 0.02


class Terminal:
    """Standard input and output of this process; the only place that changes a terminal's mode."""

    def __init__(self, stdin: int = 0, stdout: int = 1, stderr: int = 2) -> None:
        self.stdin = stdin
        self.stdout = stdout
        self.stderr = stderr
        self.is_interactive = _is_tty(stdin) and _is_tty(stdout)
        self._before: list[Any] | None = None
        self._is_over = False
        self._lock = threading.Lock()

    @property
    def is_raw(self) -> bool:
        """Tell whether it is in raw mode."""
        return self._before is not None

    def raw(self) -> None:
        """Enter raw mode, if it is a terminal and ``restore`` has not ended that."""
        with self._lock:
            if self.is_interactive and self._before is None and not self._is_over:
                before = termios.tcgetattr(self.stdin)
                tty.setraw(self.stdin, termios.TCSANOW)  # one that was stopped is not waited for, here and below
                self._before = before

    def restore(self) -> None:
        """Leave raw mode for good."""
        with self._lock:
            self._is_over = True
            if self._before is not None:
                with contextlib.suppress(termios.error):  # the terminal is gone
                    termios.tcsetattr(self.stdin, termios.TCSANOW, self._before)
                self._before = None

    def say(self, text: str) -> None:
        """Write a line for people to standard error, whole also in raw mode."""
        end = "\r\n" if self.is_raw else "\n"
        with contextlib.suppress(OSError):
            write_all(self.stderr, (("\r\n" if self.is_raw else "") + text.replace("\n", end) + end).encode())


def _is_tty(fd: int) -> bool:
    try:
        return os.isatty(fd)
    except OSError:
        return False


class Console:
    """The two directions; the callbacks run on its threads."""

    def __init__(
        self,
        path: Path,
        terminal: Terminal,
        *,
        on_escape: Callable[[], None] = lambda: None,
        on_closed: Callable[[], None] = lambda: None,
        on_broken: Callable[[], None] = lambda: None,
    ) -> None:
        self._path = path
        self._terminal = terminal
        self._on_escape = on_escape
        self._on_closed = on_closed
        self._on_broken = on_broken
        self._socket: socket.socket | None = None
        self._stopping = False
        self._is_over = False
        self._lock = threading.Lock()
        self._wake_in, self._wake_out = os.pipe()
        self._output = threading.Thread(target=self._run_output, name="console-out", daemon=True)
        self._input = threading.Thread(target=self._run_input, name="console-in", daemon=True)

    def start(self) -> None:
        """Begin, as soon as the VM listens."""
        self._output.start()

    def stop(self) -> None:
        """Stop both directions; what has arrived is written first if the VM has closed its end."""
        with self._lock:
            self._stopping = True
            if not self._is_over:
                os.write(self._wake_out, b"x")

    @property
    def has_joined(self) -> bool:
        """Tell whether the VM's end was reached."""
        return self._socket is not None

    def _connect(self) -> socket.socket | None:
        while not self._stopping:
            link = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                link.connect(str(self._path))
                return link
            except OSError:
                link.close()
                time.sleep(_RETRY_S)
        return None

    def _run_output(self) -> None:
        link = self._socket = self._connect()
        if link is not None:
            self._input.start()
            with contextlib.suppress(ConnectionError):
                self._copy_out(link)
        self._close()
        self._on_closed()

    def _close(self) -> None:
        self.stop()
        if self._socket is not None:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)  # ends a send that the guest does not take
            self._input.join()
            self._socket.close()
        with self._lock:
            self._is_over = True
            os.close(self._wake_in)
            os.close(self._wake_out)

    def _copy_out(self, link: socket.socket) -> None:
        while True:
            ready, _, _ = select.select([link.fileno(), self._wake_in], [], [])
            if link.fileno() not in ready:
                return
            data = link.recv(_CHUNK)
            if not data:
                return
            self._terminal.raw()  # what answers the guest is for the guest
            try:
                write_all(self._terminal.stdout, data)
            except OSError:
                self._on_broken()
                return

    def _run_input(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # either end closed meanwhile
            while self._pass_on():
                pass

    def _pass_on(self) -> bool:
        terminal, link = self._terminal, self._socket
        ready, _, _ = select.select([terminal.stdin, self._wake_in], [], [])
        if link is None or self._wake_in in ready:
            return False
        data = os.read(terminal.stdin, 4096)
        if not data:
            return False  # the end of a script is not the end of the VM
        if not terminal.is_interactive:
            link.sendall(data)
            return True
        typed, escape, _ = data.partition(ESCAPE)
        if typed:
            link.sendall(typed)
        if escape:
            self._on_escape()
        return True


def write_all(fd: int, data: bytes) -> None:
    """Write all of ``data``."""
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(fd, view) :]
        except BlockingIOError:  # somebody made the terminal non-blocking
            select.select([], [fd], [])
