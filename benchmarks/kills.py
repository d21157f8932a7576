"""A disk and a network card are killed while fio verifies what it writes, and iperf3 sends and receives.

Beside the errors, of which there may be none: the time from a kill to the first request that the successor completes.
``BUSVM_KILLS`` says how many kills each device gets (20; the figures of SPECIFICATION.md are of 1000, which takes 25
minutes), ``BUSVM_SPARE=1`` gives both a process that stands by. Only root can make the tap. ``BUSVM_WORKLOADS`` is as
in `benchmarks.workloads`.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.figures import Figure, at_most, median, percentile
from benchmarks.loaded import Card, Disk, Load, Seen, missing
from benchmarks.machines import scratch
from benchmarks.victims import LIFE_S, Death, Stuck, Victim

KILLS = int(os.environ.get("BUSVM_KILLS", "20"))
SPARE = os.environ.get("BUSVM_SPARE", "") not in ("", "0")
_P50_MS, _P99_MS, _SPARE_P50_MS = 400, 1000, 50
_EACH_S = 10  # of a kill, before the guest is given up


def measure(built: Path | None = None) -> Iterator[Figure]:
    """Yield the figures of both devices; ``built`` is an image with fio and iperf3, if there is one."""
    if reason := missing():
        print(f"kills: skipped, {reason}")
        return
    with scratch() as name, ExitStack() as stack:
        disks, cards = [Disk("data", spare=SPARE)], [Card("net", "tap", spare=SPARE)]
        load = Load("kills", Path(name), disks, cards, seconds=KILLS * _EACH_S + 900, built=built)
        stack.callback(load.close)
        load.start()
        victims = [Victim(load.machine.vm, device) for device in ("data", "net")]
        deaths: dict[str, list[Death]] = {victim.device: [] for victim in victims}
        threads = [threading.Thread(target=_kill, args=(victim, deaths[victim.device])) for victim in victims]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seen = load.end()
        for victim in victims:
            victim.close()
        yield from _figures(deaths, seen)


def _kill(victim: Victim, deaths: list[Death]) -> None:
    try:
        for _ in range(KILLS):
            time.sleep(LIFE_S * random.uniform(1.0, 1.4))
            deaths.append(victim.kill())
    except Stuck as error:
        print(f"kills: {error}", flush=True)


def _figures(deaths: dict[str, list[Death]], seen: Seen) -> Iterator[Figure]:
    if seen.failed or seen.kernel_errors:
        print(seen.said)
    for device, title in (("data", "under fio --verify"), ("net", "under iperf3")):
        found = [1000 * death.first for death in deaths[device]]
        lost = KILLS - len(found) + seen.failed.count(device) + seen.kernel_errors
        yield Figure(f"kills survived {title}", len(found), "", peer=f"{seen.rounds.get(device, 0)} whole rounds")
        yield at_most(f"errors {title}", lost, "", 0)
        if not found:
            continue
        gone = 1000 * median(death.gone for death in deaths[device])
        ways = f"least {min(found):.0f}, most {max(found):.0f}, until the process is gone {gone:.0f} ms"
        goal = _SPARE_P50_MS if SPARE else _P50_MS
        yield at_most(f"kill to first request {title}, p50", median(found), "ms", goal, ways)
        yield at_most(f"kill to first request {title}, p99", percentile(found, 0.99), "ms", _P99_MS)
