"""A guest whose first process runs the lines typed on its console (``guest/init``)."""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from benchmarks.machines import end

_READY = re.compile(r"^workloads: ready\n", re.MULTILINE)
_ENDED = re.compile(r"^workload ended: (\d+)\n", re.MULTILINE)
_START_S = 180.0


class GuestError(Exception):
    """The guest hangs, is gone, or a command in it failed."""


class Console:
    """A running emulator; all that the guest prints is also in the file ``log``."""

    def __init__(self, command: Sequence[str], log: Path) -> None:
        self._log = log.open("ab")
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        self._unread = ""
        self.pid = self._process.pid
        try:
            self._wait_for(_READY, _START_S)
        except GuestError:
            self.close()
            raise

    def run(self, line: str, timeout_s: float) -> str:
        """Return what ``line`` prints.

        Raises:
            GuestError: it does not end in time, or its status is not 0.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(line.encode() + b"\n")
            self._process.stdin.flush()
        except BrokenPipeError as error:
            raise GuestError("the emulator has ended") from error
        output, found = self._wait_for(_ENDED, timeout_s)
        if found[1] != "0":
            raise GuestError(f"status {found[1]}: {_last_line(output)}")
        return output

    def close(self) -> None:
        """End the emulator."""
        end(self._process)
        for stream in (self._process.stdin, self._process.stdout, self._log):
            if stream is not None:
                stream.close()

    def _wait_for(self, pattern: re.Pattern[str], timeout_s: float) -> tuple[str, re.Match[str]]:
        assert self._process.stdout is not None
        deadline = time.monotonic() + timeout_s
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            while (found := pattern.search(self._unread)) is None:
                if time.monotonic() > deadline:
                    raise GuestError(f"nothing after {timeout_s:.0f} s: {_last_line(self._unread)}")
                if not selector.select(0.5):
                    continue
                data = os.read(self._process.stdout.fileno(), 65536)
                if not data:
                    raise GuestError(f"the emulator has ended: {_last_line(self._unread)}")
                self._log.write(data)
                self._log.flush()
                self._unread += data.decode(errors="replace").replace("\r", "")
        output = self._unread[: found.start()]
        self._unread = self._unread[found.end() :]
        return output, found


def _last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "no output"
