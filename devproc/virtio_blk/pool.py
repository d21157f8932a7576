"""A few threads for host I/O: the device loop submits jobs and collects results, and never waits for the disk."""

from __future__ import annotations

import os
import queue
import threading
from collections import deque
from collections.abc import Callable

from devproc.virtio_blk.backing import Backing


class Job:
    """One transfer: what to do with the image, and what to tell afterwards."""

    __slots__ = ("error", "token", "work")

    def __init__(self, work: Callable[[Backing], None], token: object) -> None:
        self.work: Callable[[Backing], None] | None = work
        self.token = token
        self.error: OSError | None = None

    def run(self, image: Backing) -> None:
        """Do it, once; what the host refuses is kept for the one who asked."""
        work, self.work = self.work, None  # it holds views of guest memory, which must be gone before a detach
        try:
            if work is not None:
                work(image)
        except OSError as error:
            self.error = error.with_traceback(None)


class Pool:
    """A few threads that run jobs on an image. ``event`` becomes readable when results are waiting."""

    def __init__(self, image: Backing, threads: int) -> None:
        self.event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.busy = 0
        self._image = image
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._done: deque[Job] = deque()
        self._signalled = False
        self._threads = [threading.Thread(target=self._work, name=f"io{n}", daemon=True) for n in range(threads)]
        self._started = False

    def submit(self, job: Job) -> None:
        """Hand a job to the threads, which begin with the first one: in the sandbox that the process is in by then."""
        self.busy += 1
        if not self._started:
            self._started = True
            for thread in self._threads:
                thread.start()
        self._jobs.put(job)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job.run(self._image)
            self._done.append(job)
            if not self._signalled:  # appended before tested; `finished` clears before it empties
                self._signalled = True
                os.eventfd_write(self.event, 1)

    def finished(self) -> list[Job]:
        """Return the jobs done since the last call."""
        try:
            os.eventfd_read(self.event)
        except BlockingIOError:
            pass
        self._signalled = False
        jobs = []
        while self._done:
            jobs.append(self._done.popleft())
        self.busy -= len(jobs)
        return jobs

    def close(self) -> None:
        """Finish what was submitted and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads if self._started else ():
            thread.join()
        if self.event >= 0:
            os.close(self.event)
            self.event = -1
