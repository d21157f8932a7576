"""Events become entries, entries become text, JSON, a file for Perfetto, and figures."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest

from orchestrator.tracing.decode import Decoder, Entry, Names
from orchestrator.tracing.formats import FORMATS
from orchestrator.tracing.summary import Summary
from protocol.layout import CONFIG_BAR
from protocol.trace import SOURCE, Event, Kind, Side

NAMES = Names(
    {(0, 0x8): ("control", 4), (0, 0x10): ("address", 8), (CONFIG_BAR, 4): ("pci_command", 2)},
    [("type", 4, {0: "in", 1: "out"}), ("reserved", 4, {}), ("sector", 8, {})],
    [("status", 1, {0: "ok"})],
)


def ns(value: int) -> bytes:
    return value.to_bytes(8, "little")


HEADER = (1).to_bytes(4, "little") + bytes(4) + (2048).to_bytes(8, "little")
STORY = [  # time, id, kind, where, size, a, b, data; side
    (Event(1000, 5, Kind.WRITE, 0, 4, 0x8, 3, ns(400)), Side.CPU),
    (Event(1100, 5, Kind.SERVED, 0, 4, 0x8, 3, ns(200)), Side.DEVICE),
    (Event(2000, 1, Kind.KICK, 0, 0, 0, 0, b""), Side.CPU),
    (Event(2500, 1, Kind.TAKEN, 0, 1, 9, 4113, HEADER), Side.DEVICE),
    (Event(2600, 1, Kind.TAKEN, 0, 2, 4, 4113, HEADER), Side.DEVICE),
    (Event(3500, 1, Kind.DONE, 0, 1, 9, 4097, b"\0"), Side.DEVICE),
    (Event(3600, 0, Kind.BUSY, 0, 0, 0, 1200, b""), Side.DEVICE),
    (Event(3700, 1, Kind.MESSAGE, 1, 0, 0x28000000, 4, b""), Side.CPU),
    (Event(3800, 0, Kind.BUSY, SOURCE, 0, 0, 100, b""), Side.DEVICE),
    (Event(3900, 0, Kind.LINE, 0, 0, 0, 1, b""), Side.CPU),
    (Event(4000, 0, 77, 0, 0, 0, 0, b""), Side.CPU),
]


@pytest.fixture
def entries() -> list[Entry]:
    decoder = Decoder("disk0", NAMES)
    return [decoder(event, side) for event, side in STORY]


def test_what_belongs_together_has_one_number(entries: list[Entry]) -> None:
    assert [(entry.event, entry.id) for entry in entries] == [
        ("write", "w5"),
        ("served", "w5"),
        ("kick", "1"),
        ("request", "1.1"),
        ("request", "1.2"),
        ("done", "1.1"),
        ("busy", ""),
        ("interrupt", "1"),
        ("busy", ""),
        ("line", ""),
        ("event 77", ""),
    ]


def test_latencies_are_those_of_the_work(entries: list[Entry]) -> None:
    assert [entry.duration_ns for entry in entries] == [
        400, 200, None, 500, None, 1000, 1200, 200, 100, None, None,
    ]  # fmt: skip


def test_headers_and_answers_are_words_with_names(entries: list[Entry]) -> None:
    assert entries[3].details == {"queue": 0, "type": "out", "reserved": 0, "sector": 2048, "bytes": 4113}
    assert entries[5].details == {"queue": 0, "status": "ok", "written": 4097}


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ((0, 0x8, 4), "control"),
        ((0, 0xA, 2), "control[2:4]"),
        ((0, 0x14, 4), "address[4:8]"),
        ((0, 0x18, 4), "bar0+0x18"),
        ((CONFIG_BAR, 4, 2), "pci_command"),
        ((CONFIG_BAR, 0x14, 4), "pci_bar1"),
        ((CONFIG_BAR, 0x44, 4), "config+0x44"),
    ],
)
def test_places_have_the_names_that_the_device_declares(place: tuple[int, int, int], name: str) -> None:
    assert NAMES.register(*place) == name


def written(name: str, entries: list[Entry]) -> str:
    out = io.StringIO()
    chosen = FORMATS[name](out)
    for entry in entries:
        chosen.write(entry)
    chosen.end()
    return out.getvalue()


def test_text_is_a_line_each(entries: list[Entry]) -> None:
    lines = written("text", entries).splitlines()
    assert len(lines) == len(entries)
    assert lines[0].split() == ["0.000000", "disk0", "#w5", "write", "control", "=", "0x3", "0.4", "µs"]
    assert "type=out" in lines[3]
    assert "vector 1: 0x4 to 0x28000000" in lines[7]


def test_json_is_an_object_each(entries: list[Entry]) -> None:
    found = [json.loads(line) for line in written("json", entries).splitlines()]
    assert found[3] == {
        "time": 2500, "device": "disk0", "side": "device", "event": "request", "id": "1.1", "queue": 0,
        "type": "out", "reserved": 0, "sector": 2048, "bytes": 4113, "ns": 500,
    }  # fmt: skip


def test_perfetto_has_slices_requests_and_arrows(entries: list[Entry]) -> None:
    text = written("perfetto", entries)
    events: list[dict[str, Any]] = json.loads(text)
    assert json.loads(text[: text.index("\n", 400)].rstrip(",") + "]")  # cut off it is still read
    for event in events:
        assert event["ph"] == "M" or {"ts", "pid", "tid", "name"} <= set(event), event
    arrows = [(event["ph"], event["id"]) for event in events if event.get("cat") == "work"]
    assert arrows == [("s", "disk0.1"), ("t", "disk0.1"), ("t", "disk0.1"), ("f", "disk0.1")]
    begun = [event["id"] for event in events if event["ph"] == "b"]
    assert begun == ["disk0.0.1.1", "disk0.0.1.2"]
    assert [event["id"] for event in events if event["ph"] == "e"] == begun[:1]
    hook = next(event for event in events if event["name"] == "served control")
    assert (hook["ts"], hook["dur"]) == (0.9, 0.2)


def test_summary_says_where_the_time_went(entries: list[Entry]) -> None:
    summary = Summary()
    for entry in entries:
        summary.write(entry)
    figures = summary.figures()["disk0"]
    assert (figures["requests"], figures["each_ns"], figures["device_ns"]) == (1, 3000, 1500)
    assert figures["share"] == 0.5
    assert (figures["waited"], figures["served"], figures["told"]) == (
        {"p50": 500, "p99": 500},
        {"p50": 1000, "p99": 1000},
        {"p50": 200, "p99": 200},
    )
    assert summary.table()[0][:5] == ["disk0", "11", "1", "3.0 µs", "1.5 µs, 50%"]
