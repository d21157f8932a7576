"""``trace``: what harts and devices do with each other, live."""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol, TextIO

from orchestrator import client, output, vms
from orchestrator.client import Client
from orchestrator.tracing.decode import Entry
from orchestrator.tracing.formats import FORMATS
from orchestrator.tracing.session import Session
from orchestrator.tracing.summary import Summary
from protocol.errors import ConfigError, HostError, NotFound

_EVERY_S = 0.03
EVENTS = {
    "registers": {"read", "write", "served", "answered"},
    "requests": {"kick", "request", "done", "busy"},
    "interrupts": {"interrupt", "line"},
}
_QUIET = {"busy"}  # not shown as text, where it says little


class _Sink(Protocol):
    def write(self, entry: Entry) -> None: ...

    def end(self) -> None: ...


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "trace",
        help="show register accesses, requests and interrupts, live",
        description="Show what harts and devices do with each other until Ctrl-C: accesses to registers by name, "
        "doorbells, requests with their headers and latencies, interrupts. What belongs together has one number. "
        "Tracing registers makes harts' accesses slower; --events requests,interrupts does not.",
    )
    parser.add_argument("names", nargs="*", metavar="[VM] [DEV…]", help="a VM, devices of it (default: all)")
    parser.add_argument("--format", choices=list(FORMATS), default="text", help="perfetto: for ui.perfetto.dev")
    parser.add_argument("--output", metavar="FILE", type=Path, help="write to a file (default: standard output)")
    parser.add_argument(
        "--events", metavar="KINDS", default=",".join(EVENTS), help=f"some of {','.join(EVENTS)} (default: all)"
    )
    parser.add_argument("--for", dest="seconds", metavar="S", type=float, help="end after so many seconds")
    parser.add_argument("--summary", action="store_true", help="only a table of figures, at the end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    kinds = [word.strip() for word in options.events.split(",")]
    for word in kinds:
        if word not in EVENTS:
            raise ConfigError(f"--events: there is no {word!r}", hint=f"some of {', '.join(EVENTS)}")
    if options.seconds is not None and not options.seconds > 0:
        raise ConfigError(f"--for {options.seconds:g}: more than 0")
    if options.format == "perfetto" and not options.output and not options.summary and sys.stdout.isatty():
        raise ConfigError("a trace for Perfetto goes to a file", hint="--output trace.json")
    vm, devices = vms.split(options.names)
    wanted = set().union(*(EVENTS[kind] for kind in kinds))
    if options.format == "text" and not options.summary:
        wanted -= _QUIET
    with _opened(options.output) as out:
        summary = Summary() if options.summary else None
        sink: _Sink = summary or FORMATS[options.format](out)
        lost = client.ask(vm.runtime, _Tracing(devices, sink, wanted, options.seconds, registers="registers" in kinds))
        sink.end()
        if summary and options.format == "json":
            output.as_json(summary.figures())
        elif summary:
            output.table(Summary.HEADS, summary.table())
    if lost:
        sys.stderr.write(f"{lost} events were lost: there were more than could be written down\n")
    return 0


@contextmanager
def _opened(path: Path | None) -> Iterator[TextIO]:
    if path is None:
        yield sys.stdout
        return
    try:
        with path.open("w", encoding="utf-8") as out:
            yield out
    except OSError as error:
        raise HostError(f"cannot write {path}: {error.strerror}") from error


class _Tracing:
    """Traces until it is told to end, or the VM has."""

    def __init__(
        self, devices: list[str], sink: _Sink, wanted: set[str], seconds: float | None, *, registers: bool
    ) -> None:
        self._devices = devices
        self._sink = sink
        self._wanted = wanted
        self._seconds = seconds
        self._registers = registers

    async def __call__(self, connected: Client) -> int:
        known = list(await connected.functions())
        for device in self._devices:
            if device not in known:
                raise NotFound(f"no device {device!r} in this VM", hint=f"it has: {', '.join(known) or 'none'}")
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
        if self._seconds is not None:
            loop.call_later(self._seconds, ended.set)
        gone = loop.create_task(connected.bus.wait_closed())
        gone.add_done_callback(lambda _: ended.set())
        session = Session(connected, self._devices or known, registers=self._registers)
        try:
            await session.start()
            while not ended.is_set():
                self._show(session)
                try:
                    await asyncio.wait_for(ended.wait(), _EVERY_S)
                except TimeoutError:
                    continue
        finally:
            gone.cancel()
            await session.close()
            self._show(session, all_of_them=True)
            session.release()
        return session.lost

    def _show(self, session: Session, *, all_of_them: bool = False) -> None:
        for entry in session.entries(all_of_them=all_of_them):
            if entry.event in self._wanted:
                self._sink.write(entry)
        if not all_of_them:
            sys.stdout.flush()
