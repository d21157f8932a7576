"""An alarm clock for a device loop: a descriptor for ``sources``."""

from __future__ import annotations

import os


class Alarm:
    """A descriptor that becomes readable after a time: timerfd(2), which Python has from 3.13 on."""

    def __init__(self) -> None:
        import ctypes  # 1.5 MB, for devices that have one

        class Spec(ctypes.Structure):
            """struct itimerspec."""

            _fields_ = [(name, ctypes.c_long) for name in ("interval_s", "interval_ns", "value_s", "value_ns")]

        self._libc = ctypes.CDLL(None, use_errno=True)
        self._spec = Spec
        self._reference = ctypes.byref
        monotonic = 1
        self.fd = self._libc.timerfd_create(monotonic, os.O_CLOEXEC | os.O_NONBLOCK)
        if self.fd < 0:
            raise OSError(ctypes.get_errno(), "timerfd_create")

    def set(self, seconds: float) -> None:
        """Go off after ``seconds``, once."""
        nanoseconds = max(1, int(seconds * 1e9))
        spec = self._spec(0, 0, nanoseconds // 10**9, nanoseconds % 10**9)
        self._libc.timerfd_settime(self.fd, 0, self._reference(spec), None)

    def acknowledge(self) -> None:
        """Take note that it went off."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            pass

    def close(self) -> None:
        """Close the descriptor."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
