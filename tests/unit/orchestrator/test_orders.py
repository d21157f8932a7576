"""Orders to the supervisor: one file there, one answer back, and nothing stays."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from orchestrator import orders
from orchestrator.vms import Vm
from protocol.errors import BusvmError, ConfigError, NotFound
from protocol.names import Runtime


@pytest.fixture
def vm(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Vm]:
    """Return a VM that this process supervises, as far as orders go."""
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    runtime = Runtime("t")
    runtime.folder.mkdir(parents=True)
    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    yield Vm("t", runtime, None, os.getpid())
    signal.signal(signal.SIGUSR1, before)
    assert not list(runtime.folder.iterdir())


def supervised(vm: Vm, error: BusvmError | None) -> threading.Thread:
    """Answer the first order that comes."""

    def serve() -> None:
        while not (found := orders.take(vm.runtime)):
            continue
        assert (found[0].verb, found[0].body) == ("attach", {"device": "x"})
        found[0].answer(error)

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_an_order_returns_when_it_is_done(vm: Vm) -> None:
    thread = supervised(vm, None)
    orders.give(vm, "attach", {"device": "x"}, timeout_s=10)
    thread.join()


def test_what_went_wrong_comes_back_as_it_was(vm: Vm) -> None:
    thread = supervised(vm, NotFound("no device", hint="look"))
    with pytest.raises(NotFound, match="no device") as caught:
        orders.give(vm, "attach", {"device": "x"}, timeout_s=10)
    thread.join()
    assert caught.value.hint == "look"
    assert not isinstance(caught.value, ConfigError)


def test_an_order_that_nobody_takes_is_withdrawn(vm: Vm) -> None:
    with pytest.raises(BusvmError, match="does not answer"):
        orders.give(vm, "attach", {"device": "x"}, timeout_s=0.1)


def test_garbage_is_passed_over(vm: Vm) -> None:
    (vm.runtime.folder / "order.1.1").write_text("{")
    (vm.runtime.folder / "order.1.2").write_text("[1]")
    assert orders.take(vm.runtime) == []
