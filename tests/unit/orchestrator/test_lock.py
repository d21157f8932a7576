"""One supervisor a VM."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator

import pytest

from orchestrator import lock
from protocol.errors import HostError
from protocol.names import Runtime


@pytest.fixture
def runtime() -> Iterator[Runtime]:
    found, before = Runtime("lock-test"), signal.getsignal(lock.CALL)
    yield found
    signal.signal(lock.CALL, before)
    shutil.rmtree(found.folder, ignore_errors=True)


def test_a_second_one_is_refused_and_told_who_has_it(runtime: Runtime) -> None:
    held = lock.Lock.take(runtime)

    with pytest.raises(HostError, match=f"'lock-test' is running already, under process {os.getpid()}"):
        lock.Lock.take(runtime)
    assert lock.holder(runtime) == os.getpid()

    held.release()
    assert lock.holder(runtime) is None
    lock.Lock.take(runtime).release()


def test_a_lock_on_a_removed_file_is_none(runtime: Runtime) -> None:
    held = lock.Lock.take(runtime)
    shutil.rmtree(runtime.folder)

    another = lock.Lock.take(runtime)

    assert lock.holder(runtime) == os.getpid()
    held.release()
    another.release()


def test_a_call_that_comes_early_ends_nobody(runtime: Runtime) -> None:
    held = lock.Lock.take(runtime)

    os.kill(os.getpid(), lock.CALL)  # whose default is to end the process

    held.release()


def test_nobody_holds_what_is_not_there() -> None:
    assert lock.holder(Runtime("none")) is None
