"""Drive a guest's serial console: wait for text, type lines."""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from typing import Self

import pytest


class Guest:
    """A process whose standard input and output are a guest's console; ended with the ``with`` block."""

    def __init__(self, command: Sequence[str], *, cwd: str | None = None) -> None:
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=cwd
        )
        self.output = ""
        self._seen = 0

    def wait_for(self, text: str, timeout_s: float = 120) -> str:
        """Return what was printed since the last call up to and including ``text``."""
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            assert self._process.stdout is not None
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while (found := self.output.find(text, self._seen)) < 0:
                if time.monotonic() > deadline:
                    pytest.fail(f"no {text!r} in {timeout_s} s; the console ends with:\n{self.output[-2000:]}")
                if not selector.select(0.5):
                    continue
                data = os.read(self._process.stdout.fileno(), 65536)
                if not data:
                    pytest.fail(f"the guest ended before {text!r}; its console ends with:\n{self.output[-2000:]}")
                self.output += data.decode(errors="replace").replace("\r", "")
        start, self._seen = self._seen, found + len(text)
        return self.output[start : self._seen]

    def type(self, line: str) -> None:
        """Type a line."""
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()

    def login(self, password: str) -> None:
        """Log in as root and make the shell's answers easy to cut."""
        self.wait_for("login:", 180)
        self.type("root")
        self.wait_for("assword:", 60)
        self.type(password)
        self.wait_for("# ", 60)
        self.type("bind 'set enable-bracketed-paste off'; stty -echo; PS1=; echo re''ady")
        self.wait_for("ready\n", 60)

    def run(self, command: str, timeout_s: float = 60) -> str:
        """Return what ``command`` prints in the guest's shell."""
        self.type(f"{command}; echo end-of-''command")
        return self.wait_for("end-of-command\n", timeout_s).removesuffix("end-of-command\n")

    def status(self, timeout_s: float = 60) -> int:
        """Return the exit status of the process, which has to end by itself."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        while self._process.poll() is None and time.monotonic() < deadline:
            with selectors.DefaultSelector() as selector:
                selector.register(self._process.stdout, selectors.EVENT_READ)
                if selector.select(0.2):
                    self.output += os.read(self._process.stdout.fileno(), 65536).decode(errors="replace")
        if self._process.poll() is None:
            pytest.fail(f"still running after {timeout_s} s; the console ends with:\n{self.output[-2000:]}")
        return self._process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._process.stderr):
            if stream is not None:
                stream.close()
