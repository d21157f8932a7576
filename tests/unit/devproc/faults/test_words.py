"""Rules as text: what is read is what is written, and what is wrong is said in one line."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from devproc.faults.declared import Declared
from devproc.faults.rule import COMPARISONS, WIRE, Condition, Kind, Place, Rule
from devproc.faults.words import parse, said
from devproc.virtio_blk.spec import Header, Trailer, Type
from protocol.errors import ConfigError

DISK = Declared(
    registers=("control", "status", "queue_select"),
    no_write={"status": "is read-only"},
    queues=3,
    roles=("rx", "tx", "control"),
    fields=Header.words(),
    header=Header.LENGTH,
    answer=Trailer.LENGTH,
    answers=Trailer.words(),
    vectors=4,
    doorbells=3,
)
PLAIN = Declared(registers=("control",))


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("drop", Rule(Kind.DROP)),
        ("error type=OUT nth=3", Rule(Kind.ERROR, where=(Condition("type", "=", Type.OUT),), nth=3)),
        (
            "delay where=type=in,sector>=0x800 ms=2.5",
            Rule(Kind.DELAY, where=(Condition("type", "=", 0), Condition("sector", ">=", 2048)), ms=2.5),
        ),
        ("delay queue=tx ms=5 probability=10% seed=7", Rule(Kind.DELAY, queue="tx", ms=5, probability=0.1, seed=7)),
        ("error status=unsupp queue=1", Rule(Kind.ERROR, queue=1, status=2)),
        ("error status=77", Rule(Kind.ERROR, status=77)),
        ("corrupt bytes=3 of=read once", Rule(Kind.CORRUPT, octets=3, of="read", count=1)),
        ("corrupt read=control bits=2", Rule(Kind.CORRUPT, Place.READ, register="control", bits=2)),
        ("drop write=control every=4 count=9", Rule(Kind.DROP, Place.WRITE, register="control", every=4, count=9)),
        ("duplicate interrupt=3 first=2", Rule(Kind.DUPLICATE, Place.INTERRUPT, number=3, first=2)),
        ("drop interrupt=wire", Rule(Kind.DROP, Place.INTERRUPT, number=WIRE)),
        ("delay doorbell ms=1", Rule(Kind.DELAY, Place.DOORBELL, ms=1)),
        ("kill doorbell=2", Rule(Kind.KILL, Place.DOORBELL, number=2, count=1)),
        ("kill request at=done every=2", Rule(Kind.KILL, done=True, every=2)),
        ("freeze request", Rule(Kind.FREEZE, count=1)),
        ("freeze seed=2", Rule(Kind.FREEZE, count=1, seed=2)),
    ],
)
def test_a_rule_is_read(text: str, rule: Rule) -> None:
    assert parse(text, DISK) == rule


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("", "an empty rule", "it begins with delay"),
        ("eror", "no kind of fault 'eror'", "did you mean error?"),
        ("error type=OTU", "no type 'OTU'", "did you mean OUT?"),
        ("error typ=OUT", "no word 'typ'", "did you mean type?"),
        ("error where=sektor>3", "no word of a request's header 'sektor'", "did you mean sector?"),
        ("error where=sector", "'sector' compares nothing", "FIELD=VALUE"),
        ("error sector=x", "sector=x: not a whole number", ""),
        ("error type=0x100000000", "type=0x100000000: 0 to 4294967295", ""),
        ("error status=IOEROR", "no status 'IOEROR'", "did you mean IOERR?"),
        ("drop queue=xt", "no queue 'xt'", "did you mean tx?"),
        ("drop queue=3", "no queue 3", "0 to 2"),
        ("drop read=kontrol", "no register 'kontrol'", "did you mean control?"),
        ("drop read=zzz", "no register 'zzz'", "there is control, status, queue_select"),
        ("drop write=status", "write=status: it is read-only", ""),
        ("drop interrupt=4", "no interrupt 4", "0 to 3, and wire"),
        ("drop interrupt=wier", "no interrupt 'wier'", "did you mean wire?"),
        ("drop doorbell=3", "doorbell=3: 0 to 2", ""),
        ("drop nth=0", "nth=0: 1 to", ""),
        ("drop nth=2 nth=3", "nth is there twice", ""),
        ("drop nth=2 every=3", "nth, every, first: one of them", ""),
        ("drop nth>2", "nth>2: nth is compared with = alone", ""),
        ("drop probability=2", "probability=2: up to 1, or 100%", ""),
        ("drop probability=nan", "probability=nan: more than 0", ""),
        ("drop once=2", "once=2: it has no value", ""),
        ("drop once count=2", "once is count=1", ""),
        ("drop ms=5", "ms is of no meaning to drop", "delay and freeze"),
        ("drop = 3", "'=' is no part of a rule", "NAME=VALUE"),
        ("delay", "delay by how much?", "ms=100"),
        ("delay ms=1e9", "ms=1e9: up to an hour", ""),
        ("error read=control", "error is of no meaning to read", "all ones"),
        ("corrupt interrupt", "corrupt is of no meaning to interrupt", "it is of request, read, write"),
        ("corrupt bits=1 bytes=1", "bits and bytes exclude each other", ""),
        ("corrupt of=both", "no of 'both'", "there is read, written"),
        ("corrupt read=control of=read", "of is of no meaning to read", ""),
        ("drop read=control queue=1", "queue, read: a rule is about one of them", ""),
        ("duplicate interrupt=wire", "a wire has a level", "interrupt=VECTOR"),
        ("drop " + "where=sector>9999999999 " * 20, "a rule of more than 200 characters", ""),
    ],
)
def test_what_is_wrong_is_named_with_what_is_right(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as error:
        parse(text, DISK)

    assert message in error.value.message
    assert hint in (error.value.hint or "")
    assert "\n" not in f"{error.value.message}{error.value.hint}"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("drop request", "this device has no requests"),
        ("drop doorbell", "this device has no doorbells"),
        ("error request", "this device has no requests"),
    ],
)
def test_a_device_without_requests_says_so(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(text, PLAIN)


def test_a_device_without_status_has_no_errors() -> None:
    with pytest.raises(ConfigError, match="end with no status"):
        parse("error queue=0", Declared(queues=1, roles=("",)))


_WHICH = st.one_of(
    st.builds(lambda n: {"nth": n}, st.integers(1, 1 << 40)),
    st.builds(lambda n, p: {"every": n, "probability": p}, st.integers(1, 99), st.floats(1e-9, 1.0)),
    st.builds(lambda n, c: {"first": n, "count": c}, st.integers(1, 99), st.integers(1, 99)),
    st.builds(lambda p, s: {"probability": p, "seed": s}, st.floats(1e-9, 1.0), st.integers(0, 1 << 62)),
)
_CONDITIONS = st.lists(
    st.builds(
        Condition,
        st.sampled_from(["type", "sector", "reserved"]),
        st.sampled_from(list(COMPARISONS)),
        st.integers(0, 1 << 31),
    ),
    max_size=2,
)


@given(
    kind=st.sampled_from([Kind.DROP, Kind.DUPLICATE, Kind.ERROR, Kind.CORRUPT, Kind.DELAY]),
    queue=st.sampled_from([None, 0, 2, "tx"]),
    where=_CONDITIONS,
    which=_WHICH,
    ms=st.floats(0.001, 3_600_000),
)
def test_a_rule_survives_its_text(
    kind: Kind, queue: int | str | None, where: list[Condition], which: dict[str, float], ms: float
) -> None:
    rule = Rule(kind, queue=queue, where=tuple(where), ms=ms if kind is Kind.DELAY else 0, **which)  # type: ignore[arg-type]

    text = said(rule, DISK)

    if len(text) <= 200:
        assert parse(text, DISK) == rule


_PIECES = st.sampled_from(
    [*Kind, "type", "=", "OUT", "sector", ">=", "7", " ", "read", "control", "nth", "where", ",", "seed", "of", "x"]
)


@given(st.one_of(st.text(max_size=60), st.lists(_PIECES, max_size=25).map("".join)))
def test_no_text_raises_anything_else(text: str) -> None:
    try:
        rule = parse(text, DISK)
    except ConfigError:
        return
    assert parse(said(rule, DISK), DISK) == rule
