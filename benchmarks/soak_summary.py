"""What a soak has shown, from the lines that it wrote: ``python -m benchmarks.soak_summary FILE``.

A slope is fitted by least squares to what came after the warm-up. Of a process that lived through it, or through long
parts of it, it is how that process grew: each has a level of its own, and a warm-up of its own if it came later. Of a
device whose processes live for seconds it is how they grew one after the other.
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, at_most, median, percentile

Event = dict[str, Any]
Point = tuple[int, float, float]
"""Pid, seconds, value."""
WARM_UP_S = 900.0
WINDOW_S = 300.0
SETTLED_S = 600.0  # of a process that came later: Python's own memory still grows
JUDGED_S = 1200.0  # a slope over less says nothing
FLAT_MIB_H, FLAT_DESCRIPTORS_H = 2.0, 1.0
_GOALS_S = {"spare": (0.05, 1.0), "plain": (0.4, 1.0)}
_WAYS = {
    "spare": "with a spare",
    "plain": "without a spare",
    "early": "soon after another",
    "disturbed": "without bus or orchestrator",
    "stopped": "stopped, from going on",
}


def slope(points: list[Point]) -> float:
    """Return how much is added in an hour; 0 where nothing can be said."""
    groups: dict[int, list[tuple[float, float]]] = defaultdict(list)
    began: dict[int, float] = {}
    short = len({pid for pid, _, _ in points}) > len(points) / 4
    for pid, when, value in points:
        if short or when - began.setdefault(pid, when) >= SETTLED_S * (len(began) > 1):
            groups[0 if short else pid].append((when, value))
    above = below = 0.0
    for group in map(_highest, groups.values()):
        mean_t = sum(when for when, _ in group) / len(group)
        mean_v = sum(value for _, value in group) / len(group)
        above += sum((when - mean_t) * (value - mean_v) for when, value in group)
        below += sum((when - mean_t) ** 2 for when, _ in group)
    return above / below * 3600 if below else 0.0


def _highest(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the highest point of each window: between two lives a process is small, and has little open."""
    found: dict[float, tuple[float, float]] = {}
    for when, value in points:
        window = when // WINDOW_S
        if window not in found or value > found[window][1]:
            found[window] = when, value
    return [*found.values()]


def figures(events: list[Event]) -> Iterator[Figure]:
    """Yield what there is to say."""
    samples = [event for event in events if event["kind"] == "sample"]
    ended = max((event["t"] for event in events), default=0.0)
    yield Figure("soak", ended / 60, "min", peer=f"{len(samples)} samples, seed {_seed(events)}")
    yield from _deaths(events)
    yield from _guest(events)
    warm = min(WARM_UP_S, ended / 4)
    yield from _growth([sample for sample in samples if sample["t"] >= warm])


def _seed(events: list[Event]) -> str:
    return next((str(event["seed"]) for event in events if event["kind"] == "start"), "unknown")


def _deaths(events: list[Event]) -> Iterator[Figure]:
    counts = Counter((event["device"], event["what"]) for event in events if event["kind"] == "death")
    for (device, what), count in sorted(counts.items()):
        yield Figure(f"{device}: {what}", count, "")
    times: dict[tuple[str, str], list[float]] = defaultdict(list)
    for event in events:
        if event["kind"] == "death" and "way" in event:
            times[event["of"], event["way"]].append(event["seconds"])
    for (kind, way), found in sorted(times.items()):
        name, notes = f"to first request, {kind} {_WAYS[way]}", f"of {len(found)}, most {max(found):.3f} s"
        p50, p99 = median(found), percentile(found, 0.99)
        if way in _GOALS_S:
            yield at_most(f"{name}, p50", p50, "s", _GOALS_S[way][0], notes)
            yield at_most(f"{name}, p99", p99, "s", _GOALS_S[way][1])
        else:
            yield Figure(f"{name}, p50", p50, "s", peer=notes)
            yield Figure(f"{name}, p99", p99, "s")


def _guest(events: list[Event]) -> Iterator[Figure]:
    seen = [event for event in events if event["kind"] == "guest"]
    rounds = seen[-1]["rounds"] if seen else {}
    yield at_most("loads that failed", len(seen[-1]["failed"]) if seen else 1, "", 0, f"whole rounds: {rounds}")
    yield at_most("errors of the guest's kernel", sum(event["errors"] for event in seen), "", 0)
    silences = [event["device"] for event in events if event["kind"] == "silence"]
    yield Figure("cards that carried nothing until asked", len(silences), "", peer=", ".join(silences[:5]))
    seen_twice = Counter(
        (process["role"], process["pid"])
        for event in events
        if event["kind"] == "sample"
        for process in event["processes"]
        if process["role"].endswith(".unknown")  # for a moment every process is, until it is recorded
    )
    unknown = [role for (role, _), times in seen_twice.items() if times > 1]
    yield at_most("processes that nobody looks after", len(unknown), "", 0, ", ".join(unknown))
    troubles = [event["text"] for event in events if event["kind"] == "trouble"]
    yield at_most("troubles", len(troubles), "", 0, "; ".join(troubles[:3]))


def _growth(samples: list[Event]) -> Iterator[Figure]:
    span = samples[-1]["t"] - samples[0]["t"] if samples else 0.0
    memory: dict[str, list[Point]] = defaultdict(list)
    descriptors: dict[str, list[Point]] = defaultdict(list)
    for sample in samples:
        for process in sample["processes"]:
            if process["role"].endswith(".unknown"):
                continue
            memory[process["role"]].append((process["pid"], sample["t"], process["own"] / 1024))
            descriptors[process["role"]].append((process["pid"], sample["t"], process["descriptors"]))
        for name in ("shm_kib", "log_kib"):
            memory[name.removesuffix("_kib")].append((0, sample["t"], sample[name] / 1024))
        for name in ("shm_names", "files"):
            descriptors[name].append((0, sample["t"], sample[name]))
    for title, unit, limit, found in (
        ("memory", "MiB/h", FLAT_MIB_H, memory),
        ("descriptors", "/h", FLAT_DESCRIPTORS_H, descriptors),
    ):
        for role, points in sorted(found.items()):
            values, rate = [value for _, _, value in points], slope(points)
            notes = f"{min(values):.1f} to {max(values):.1f}, of {len({pid for pid, _, _ in points})} processes"
            if span >= JUDGED_S and role != "log" and not role.endswith(".spare"):  # which is always just starting
                yield at_most(f"{title} of {role}", rate, unit, limit, notes)
            else:
                yield Figure(f"{title} of {role}", rate, unit, peer=notes)


def read(path: Path) -> list[Event]:
    """Return the lines of a soak, of which the last may have been cut off."""
    events = []
    for line in path.read_text().splitlines():
        try:
            events.append(json.loads(line))
        except ValueError:
            break
    last = max((index for index, event in enumerate(events) if event["kind"] == "start"), default=0)
    return events[last:]


def main(arguments: Iterable[str]) -> int:
    """Print the figures of each file's last soak; return 1 when one is not met."""
    missed = 0
    for name in arguments:
        for figure in figures(read(Path(name))):
            print(figure.line())
            missed += figure.met is False
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
