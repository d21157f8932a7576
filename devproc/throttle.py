"""Limits on requests and bytes a second: token buckets that hold one second's worth.

A request goes when every bucket holds something, and takes what it costs, if need be into debt: so a request larger
than a second's worth goes too, and the next ones wait. Time is an argument; nothing here waits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, Protocol, TypeVar

from devproc.alarm import Alarm


class Bucket:
    """Tokens that come at ``rate`` a second, a second's worth at most."""

    def __init__(self, rate: int, now: float) -> None:
        self.rate = rate
        self._level = float(rate)
        self._at = now

    def delay(self, now: float) -> float:
        """Return the seconds until something is in it."""
        self._level = min(float(self.rate), self._level + (now - self._at) * self.rate)
        self._at = now
        return 0.0 if self._level > 0 else (1e-6 - self._level) / self.rate

    def take(self, tokens: int) -> None:
        """Take tokens out, more than there are if need be."""
        self._level -= tokens


class Throttle:
    """Both limits; 0 is none."""

    def __init__(self, iops: int, bytes_per_second: int, now: float) -> None:
        self._requests = Bucket(iops, now) if iops else None
        self._bytes = Bucket(bytes_per_second, now) if bytes_per_second else None

    def delay(self, now: float) -> float:
        """Return the seconds until the next request may go, 0 for at once."""
        return max((bucket.delay(now) for bucket in (self._requests, self._bytes) if bucket), default=0.0)

    def take(self, size: int) -> None:
        """Let a request of ``size`` bytes go."""
        if self._requests:
            self._requests.take(1)
        if self._bytes:
            self._bytes.take(size)


class Sized(Protocol):
    """A request."""

    @property
    def size(self) -> int:
        """Bytes of data that it moves."""


R = TypeVar("R", bound=Sized)


class Waiting(Generic[R]):
    """Requests in the order they came, each of which goes when the limits allow."""

    def __init__(self, throttle: Throttle, clock: Callable[[], float]) -> None:
        self.requests: deque[R] = deque()
        self.alarm = Alarm()
        self._throttle = throttle
        self._clock = clock

    def ready(self) -> Iterator[R]:
        """Take out those that may go now; the alarm goes off when the next one may."""
        while self.requests:
            delay = self._throttle.delay(self._clock())
            if delay > 0:
                self.alarm.set(delay)
                return
            request = self.requests.popleft()
            self._throttle.take(request.size)
            yield request
