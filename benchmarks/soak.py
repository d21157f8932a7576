"""Hours of fio and iperf3 while processes die at random: memory and descriptors have to stay what they are.

Beside what fio and iperf3 load, two disks and two cards die, one of each with a spare: at random moments, on average
every ``BUSVM_SOAK_MEAN_S`` seconds (6), by SIGKILL; or the process that stands by does; or they are stopped for up to
two seconds. Every ``BUSVM_SOAK_RARE_S`` seconds (600) the bus dies, and the orchestrator, which a new one follows. A
third disk and card live on and show what a process does that works for hours. ``BUSVM_SOAK_S`` says how long (180);
``BUSVM_SOAK_SEED`` plays the same schedule again. All is written to ``BUSVM_SOAK_FILE`` as it happens, a line of JSON
each, by default soak.jsonl in ``BUSVM_WORKLOADS``; SIGTERM ends a soak early, with its figures.
"""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict
from pathlib import Path

from benchmarks import samples
from benchmarks.figures import Figure
from benchmarks.loaded import Card, Disk, Load, Seen, missing
from benchmarks.machines import orchestrator_command, scratch
from benchmarks.soak_summary import Event, figures
from benchmarks.victims import LIFE_S, PATIENCE_S, Stuck, Victim
from benchmarks.workloads.console import GuestError
from benchmarks.workloads.image import results
from orchestrator.plan import BUS
from orchestrator.record import Entry, Record
from protocol.names import Runtime

SECONDS = float(os.environ.get("BUSVM_SOAK_S", "180"))
MEAN_S = float(os.environ.get("BUSVM_SOAK_MEAN_S", "6"))
RARE_S = float(os.environ.get("BUSVM_SOAK_RARE_S", min(600.0, SECONDS / 4)))
SEED = int(os.environ.get("BUSVM_SOAK_SEED", random.randrange(1 << 32)))
_SAMPLE_S = min(30.0, SECONDS / 6)
_KILL, _SPARE, _STOP = 0.8, 0.1, 0.1
_LONGEST_STOP_S, _LONGEST_AWAY_S = 2.0, 1.5
_SETTLE_S = 2.0  # after a bus or an orchestrator, until all is as it was
_LEAST_S = 0.05
_DISKS = [Disk("data", spare=True), Disk("bare"), Disk("still", rate="8m")]
_CARDS = [Card("net", "tap", spare=True), Card("barenet", "qtap"), Card("stillnet", "vtap", rate="50M")]


class Journal:
    """What happened, in memory and in a file; any thread may write."""

    def __init__(self, path: Path) -> None:
        self.events: list[Event] = []
        self._began = time.monotonic()
        self._lock = threading.Lock()
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a")

    def write(self, kind: str, **values: object) -> None:
        """Add a line."""
        with self._lock:
            event: Event = {"kind": kind, "t": round(time.monotonic() - self._began, 3), **values}
            self.events.append(event)
            self._file.write(json.dumps(event) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class Storm:
    """Whether bus or orchestrator are away: what is measured then says something about them."""

    def __init__(self) -> None:
        self._count = self._ever = 0
        self._until = 0.0

    @contextmanager
    def rages(self) -> Iterator[None]:
        """Be one, and a while longer."""
        self._count += 1
        self._ever += 1
        try:
            yield
        finally:
            self._count -= 1
            self._until = time.monotonic() + _SETTLE_S

    def now(self) -> int:
        """Return a number that is the same before and after something if there was none meanwhile; -1: there is."""
        return -1 if self._count or time.monotonic() < self._until else self._ever


class Soak:
    """One machine, and the threads that make its processes die."""

    def __init__(self, load: Load, journal: Journal, stop: threading.Event) -> None:
        self._load, self._journal, self._stop = load, journal, stop
        self._vm = load.machine.vm
        self._storm = Storm()
        dying = [("disk", each) for each in _DISKS[:2]] + [("card", each) for each in _CARDS[:2]]
        works: list[tuple[str, float, Callable[[random.Random], None]]] = [
            (each.name, MEAN_S, self._death_of(kind, each)) for kind, each in dying
        ]
        works += [("bus", RARE_S, self._bus_dies), ("orchestrator", RARE_S, self._orchestrator_dies)]
        self._threads = [threading.Thread(target=self._again, args=work, name=work[0]) for work in works]

    def run(self) -> None:
        """Go on until there is nothing left of ``SECONDS``, or of the machine, or it is to stop."""
        deadline = time.monotonic() + SECONDS
        self._load.start()
        self._sample()
        for thread in self._threads:
            thread.start()
        try:
            while not self._stop.wait(min(_SAMPLE_S, max(0.0, deadline - time.monotonic()))):
                self._sample()
                if time.monotonic() >= deadline:
                    break
        finally:
            self._stop.set()
            for thread in self._threads:
                thread.join()
        if not any(event["kind"] == "trouble" for event in self._journal.events):
            self._guest(self._load.end)
        self._sample()

    def _again(self, name: str, mean_s: float, work: Callable[[random.Random], None]) -> None:
        source = random.Random(f"{SEED} {name}")
        try:
            while not self._stop.wait(_LEAST_S + source.expovariate(1 / mean_s)):
                try:
                    work(source)
                except Stuck:
                    if not self._is_only_silent(name):
                        raise
        except (Stuck, GuestError, OSError, subprocess.SubprocessError) as error:
            self._trouble(f"{name}: {error}")

    def _is_only_silent(self, name: str) -> bool:
        """Tell whether a card that carried nothing does when it is asked to: its iperf3 waits for something else."""
        if name not in [card.name for card in _CARDS]:
            return False
        state = self._ask("inspect", self._vm, name)
        said = self._load.why_silent(name)
        self._journal.write("silence", device=name, said=said, state=state, after=self._ask("inspect", self._vm, name))
        return "no answer" not in said

    def _ask(self, *words: str) -> str:
        done = subprocess.run(orchestrator_command(*words), capture_output=True, text=True, timeout=60, check=False)
        return done.stdout + done.stderr

    def _trouble(self, text: str) -> None:
        """Note it with what can be seen now, and end the soak."""
        said = [
            self._ask(*words) for words in (("ps", self._vm), ("logs", self._vm, "-n", "60"), ("inspect", self._vm))
        ]
        self._journal.write("trouble", text=text, said=said)
        print(f"soak: {text}", flush=True)
        self._stop.set()

    # deaths

    def _death_of(self, kind: str, each: Disk | Card) -> Callable[[random.Random], None]:
        victim = Victim(self._vm, each.name)
        life_s = LIFE_S * (1 + 2 * each.spare)
        since, stands_by = time.monotonic(), True  # its last death; and who dies standing by is not followed by another

        def die(source: random.Random) -> None:
            nonlocal since, stands_by
            choice, pause_s = source.random(), source.uniform(_LEAST_S, _LONGEST_STOP_S)
            before = self._storm.now()
            if choice < _STOP:
                what, way, seconds = "stopped", "stopped", victim.stop(pause_s)
            elif choice < _STOP + _SPARE and each.spare:
                if self._spare_dies(each.name):
                    self._journal.write("death", device=each.name, of=kind, what="spare killed")
                    stands_by = False
                return
            else:
                lived_s = time.monotonic() - since
                what, seconds = "killed", victim.kill().first
                way = ("spare" if each.spare and stands_by else "plain") if lived_s >= life_s else "early"
                since, stands_by = time.monotonic(), True
            if before < 0 or self._storm.now() != before:
                way = "disturbed"
            self._journal.write("death", device=each.name, of=kind, what=what, way=way, seconds=round(seconds, 4))

        return die

    def _spare_dies(self, device: str) -> bool:
        for pid, role in samples.roles(self._vm).items():
            if role == f"{device}.spare":
                os.kill(pid, signal.SIGKILL)
                return True
        return False

    def _entry(self, name: str) -> Entry:
        record = Record.read(Runtime(self._vm))
        if record is None:
            raise Stuck("the VM is gone")
        return record.orchestrator if name == "orchestrator" else record.entries[name]

    def _bus_dies(self, _source: random.Random) -> None:
        with self._storm.rages():
            began, entry = time.monotonic(), self._entry(BUS)
            entry.signal(signal.SIGKILL)
            while self._entry(BUS).pid in (0, entry.pid):
                if time.monotonic() > began + PATIENCE_S:
                    raise Stuck("nobody starts the bus again")
                time.sleep(_LEAST_S)
        self._journal.write("death", device="bus", of="bus", what="killed", seconds=round(time.monotonic() - began, 3))

    def _orchestrator_dies(self, source: random.Random) -> None:
        with self._storm.rages():
            began = time.monotonic()
            self._entry("orchestrator").signal(signal.SIGKILL)
            time.sleep(source.uniform(0.0, _LONGEST_AWAY_S))
            up = subprocess.run(self._load.machine.up, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
            if up.returncode:
                raise Stuck(f"the machine is not taken over: {up.stderr.strip()}")
        seconds = round(time.monotonic() - began, 3)
        self._journal.write("death", device="orchestrator", of="orchestrator", what="killed", seconds=seconds)

    # what is seen

    def _sample(self) -> None:
        usage = samples.usage(self._vm)
        self._journal.write("sample", **asdict(usage))
        seen = self._guest(self._load.look)
        count = sum(event["kind"] == "death" for event in self._journal.events)
        own = sum(process.own for process in usage.processes) // 1024
        descriptors = sum(process.descriptors for process in usage.processes)
        line = f"{self._journal.events[-1]['t']:7.0f} s  {count} deaths, {len(usage.processes)} processes, {own} MiB"
        line += f", {descriptors} descriptors"
        if seen:
            line += f", {sum(seen.rounds.values())} rounds, {seen.available_mib:.0f} MiB free in the guest"
        print(line, flush=True)

    def _guest(self, ask: Callable[[], Seen]) -> Seen | None:
        if any(event["kind"] == "trouble" and event["text"].startswith("guest") for event in self._journal.events):
            return None
        try:
            seen = ask()
        except GuestError as error:
            self._trouble(f"guest: {error}")
            return None
        said = seen.said if seen.failed or seen.kernel_errors else ""
        self._journal.write("guest", rounds=seen.rounds, failed=seen.failed, errors=seen.kernel_errors,
                            available=seen.available_mib, said=said)  # fmt: skip
        if said:
            self._trouble(f"guest: {seen.kernel_errors} errors, failed: {', '.join(seen.failed) or 'none'}")
        return seen


def measure() -> Iterator[Figure]:
    """Yield the figures."""
    if reason := missing():
        print(f"soak: skipped, {reason}")
        return
    stop = threading.Event()
    journal = Journal(Path(os.environ.get("BUSVM_SOAK_FILE", results() / "soak.jsonl")))
    with scratch() as name, ExitStack() as stack:
        stack.callback(journal.close)
        for number in (signal.SIGTERM, signal.SIGINT):
            stack.callback(signal.signal, number, signal.signal(number, lambda *_: stop.set()))
        load = Load("soak", Path(name), _DISKS, _CARDS, seconds=int(SECONDS) + 900, background=True)
        stack.callback(load.close)
        journal.write("start", seed=SEED, seconds=SECONDS, mean_s=MEAN_S, rare_s=RARE_S)
        Soak(load, journal, stop).run()
        yield from figures(journal.events)
