"""Wires become messages (APLIC), messages become pending identities (IMSIC): RISC-V AIA §3.5, §4.5 to §4.9."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.memory_map import WIRED_SOURCES
from cpu_proc.platform import aia
from cpu_proc.platform.aia import DETACHED, EDGE0, EDGE1, INACTIVE, LEVEL0, LEVEL1, Aplic, Imsic
from tests.unit.cpu_proc.harness import Bench

SOURCE = 40
WORD, BIT = 4 * (SOURCE // 32), 1 << SOURCE % 32


class Domain:
    """An APLIC with what it sends."""

    def __init__(self) -> None:
        self.sent: list[tuple[int, int]] = []
        self.aplic = Aplic(lambda hart, identity: self.sent.append((hart, identity)))

    def write(self, offset: int, value: int) -> None:
        """Write one register."""
        self.aplic.write(offset, 4, value)

    def read(self, offset: int) -> int:
        """Read one register."""
        return self.aplic.read(offset, 4)

    def source(self, mode: int, *, source: int = SOURCE, enable: bool = True) -> None:
        """Set up a source that sends identity 100 + its number to hart 2."""
        self.write(aia.SOURCECFG + 4 * (source - 1), mode)
        self.write(aia.TARGET + 4 * (source - 1), 2 << 18 | 100 + source)
        if enable:
            self.write(aia.SETIENUM, source)

    @property
    def pending(self) -> bool:
        """Whether SOURCE is pending."""
        return bool(self.read(aia.SETIP + WORD) & BIT)

    def taken(self) -> list[tuple[int, int]]:
        """Return what was sent since the last time."""
        sent, self.sent[:] = list(self.sent), []
        return sent


@pytest.fixture
def domain() -> Domain:
    """Return an enabled domain."""
    domain = Domain()
    domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)
    return domain


MESSAGE = [(2, 100 + SOURCE)]


@pytest.mark.parametrize(
    ("mode", "levels", "messages"),
    [
        (INACTIVE, (1, 0, 1), 0), (DETACHED, (1, 0, 1), 0), (EDGE1, (1, 0, 1), 2), (EDGE0, (1, 0, 1), 1),
        (LEVEL1, (1, 1, 0, 1), 2), (LEVEL0, (1, 0, 0, 1, 0), 2), (EDGE1, (0, 0), 0),
    ],
)  # fmt: skip
def test_wire_changes_become_messages(mode: int, levels: tuple[int, ...], messages: int) -> None:
    domain = Domain()
    if mode in (EDGE0, LEVEL0):
        domain.aplic.set_line(SOURCE, 1)
    domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)
    domain.source(mode)
    for level in levels:
        domain.aplic.set_line(SOURCE, level)
    assert domain.taken() == MESSAGE * messages
    assert not domain.pending


def test_edge_waits_for_domain_and_source(domain: Domain) -> None:
    domain.write(aia.DOMAINCFG, 0)
    domain.source(EDGE1, enable=False)
    domain.aplic.set_line(SOURCE, 1)
    assert domain.pending
    domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)
    assert domain.taken() == []
    domain.write(aia.SETIENUM, SOURCE)
    assert domain.taken() == MESSAGE
    assert not domain.pending


def test_level_that_falls_takes_its_pending_bit_along(domain: Domain) -> None:
    domain.source(LEVEL1, enable=False)
    domain.aplic.set_line(SOURCE, 1)
    assert domain.pending
    domain.aplic.set_line(SOURCE, 0)
    assert not domain.pending
    domain.write(aia.SETIENUM, SOURCE)
    assert domain.taken() == []


def test_level_is_sent_again_on_request_while_it_is_high(domain: Domain) -> None:
    """§4.9.2: the handler writes setipnum before it returns."""
    domain.source(LEVEL1)
    domain.aplic.set_line(SOURCE, 1)
    domain.write(aia.SETIPNUM_LE, SOURCE)
    assert domain.taken() == MESSAGE * 2
    domain.aplic.set_line(SOURCE, 0)
    domain.write(aia.SETIPNUM_LE, SOURCE)
    assert domain.taken() == []


@pytest.mark.parametrize("mode", [EDGE1, LEVEL1])
@pytest.mark.parametrize(("register", "value"), [(aia.CLRIPNUM, SOURCE), (aia.IN_CLRIP + WORD, BIT)])
def test_pending_bit_can_be_cleared(domain: Domain, mode: int, register: int, value: int) -> None:
    """§4.7: also that of a level source, because the domain delivers by messages."""
    domain.source(mode, enable=False)
    domain.aplic.set_line(SOURCE, 1)
    domain.write(register, value)
    assert not domain.pending
    domain.write(aia.SETIENUM, SOURCE)
    assert domain.taken() == []


@pytest.mark.parametrize(
    ("register", "value"),
    [
        (aia.SETIPNUM, SOURCE), (aia.SETIPNUM_LE, SOURCE), (aia.SETIPNUM_BE, SOURCE << 24), (aia.SETIP + WORD, BIT),
    ],
)  # fmt: skip
@pytest.mark.parametrize(("mode", "sends"), [(DETACHED, True), (EDGE1, True), (INACTIVE, False), (LEVEL1, False)])
def test_software_sets_pending(domain: Domain, register: int, value: int, mode: int, sends: bool) -> None:
    domain.source(mode)
    domain.write(register, value)
    assert domain.taken() == (MESSAGE if sends else [])


def test_enable_registers(domain: Domain) -> None:
    domain.source(EDGE1, enable=False)
    domain.write(aia.SETIE + WORD, BIT)
    assert domain.read(aia.SETIE + WORD) == BIT
    domain.write(aia.CLRIE + WORD, BIT)
    assert domain.read(aia.SETIE + WORD) == 0
    domain.write(aia.SETIENUM, SOURCE)
    domain.write(aia.CLRIENUM, SOURCE)
    domain.aplic.set_line(SOURCE, 1)
    assert domain.taken() == []


def test_inputs_read_rectified(domain: Domain) -> None:
    domain.source(LEVEL0)
    assert domain.read(aia.IN_CLRIP + WORD) == BIT
    domain.aplic.set_line(SOURCE, 1)
    assert domain.read(aia.IN_CLRIP + WORD) == 0


def test_inactive_source_keeps_nothing(domain: Domain) -> None:
    domain.source(EDGE1)
    domain.write(aia.SOURCECFG + 4 * (SOURCE - 1), INACTIVE)
    assert domain.read(aia.SETIE + WORD) == 0
    assert domain.read(aia.TARGET + 4 * (SOURCE - 1)) == 0
    domain.write(aia.SETIENUM, SOURCE)
    assert domain.read(aia.SETIE + WORD) == 0


@pytest.mark.parametrize("value", [2, 3, 0x400, 0x401])
def test_reserved_modes_and_delegation_make_a_source_inactive(domain: Domain, value: int) -> None:
    domain.write(aia.SOURCECFG, value)
    assert domain.read(aia.SOURCECFG) == INACTIVE


def test_domaincfg_and_genmsi(domain: Domain) -> None:
    domain.write(aia.DOMAINCFG, 0xFFFF_FFFF)
    assert domain.read(aia.DOMAINCFG) == 0x8000_0104
    domain.write(aia.GENMSI, 1 << 18 | 33)
    assert domain.taken() == [(1, 33)]
    assert domain.read(aia.GENMSI) == 1 << 18 | 33


def test_reset_keeps_the_wires(domain: Domain) -> None:
    domain.aplic.set_line(SOURCE, 1)
    domain.source(EDGE1)
    domain.aplic.reset()
    assert domain.read(aia.DOMAINCFG) == 0x8000_0004
    domain.source(LEVEL1)
    assert domain.read(aia.IN_CLRIP + WORD) == BIT
    domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)
    assert domain.taken() == MESSAGE


# a machine-level domain above a supervisor-level one


class Pair:
    """A machine-level domain with its child, both enabled, and what either sends."""

    def __init__(self) -> None:
        self.low = Domain()
        self.high = Domain()
        self.high.aplic = Aplic(lambda hart, identity: self.high.sent.append((hart, identity)), self.low.aplic)
        for domain in (self.high, self.low):
            domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)


@pytest.fixture
def pair() -> Pair:
    """Return two domains as after reset, but for being enabled."""
    return Pair()


CONFIG = aia.SOURCECFG + 4 * (SOURCE - 1)


def test_after_reset_all_sources_are_the_root_domains(pair: Pair) -> None:
    pair.high.source(LEVEL1)
    pair.low.source(LEVEL1)
    assert pair.low.read(CONFIG) == 0
    pair.high.aplic.set_line(SOURCE, 1)
    assert (pair.high.taken(), pair.low.taken()) == (MESSAGE, [])


def test_a_delegated_source_belongs_to_the_child(pair: Pair) -> None:
    pair.high.write(CONFIG, aia.SOURCECFG_D | 0x3FF)
    assert pair.high.read(CONFIG) == aia.SOURCECFG_D  # the only child has index 0
    pair.low.source(LEVEL1)
    pair.high.write(aia.SETIENUM, SOURCE)
    pair.high.aplic.set_line(SOURCE, 1)
    assert (pair.high.taken(), pair.low.taken()) == ([], MESSAGE)


def test_a_source_taken_back_is_inactive_below(pair: Pair) -> None:
    pair.high.aplic.delegate_all()
    pair.low.source(EDGE1)
    pair.high.source(EDGE1)
    assert pair.low.read(CONFIG) == 0
    assert pair.low.read(aia.SETIE + WORD) == 0
    pair.high.aplic.set_line(SOURCE, 1)
    assert (pair.high.taken(), pair.low.taken()) == (MESSAGE, [])
    pair.high.aplic.reset()
    pair.low.source(EDGE1)
    assert pair.low.read(CONFIG) == 0


def test_message_addresses_are_kept_until_locked(pair: Pair) -> None:
    places = range(aia.MMSIADDRCFG, aia.SMSIADDRCFGH + 4, 4)
    for place in places:
        pair.high.write(place, place)
        pair.low.write(place, place)
    assert [pair.high.read(place) for place in places] == list(places)
    assert [pair.low.read(place) for place in places] == [0] * 4  # the root domain's alone
    pair.high.write(aia.MMSIADDRCFG + 4, aia.ADDRCFG_LOCK)
    pair.high.write(aia.SMSIADDRCFGH, 1)
    assert pair.high.read(aia.SMSIADDRCFGH) == aia.SMSIADDRCFGH


@given(
    some.lists(
        some.tuples(
            some.one_of(
                some.integers(0, 0x1FFF).map(lambda n: 4 * n),
                some.sampled_from([aia.SETIPNUM, aia.SETIENUM, aia.CLRIPNUM, aia.CLRIENUM, aia.GENMSI]),
            ),
            some.sampled_from([4, 4, 4, 1, 2, 8]),
            some.none() | some.integers(0, (1 << 32) - 1) | some.integers(0, WIRED_SOURCES),
        ),
        max_size=40,
    )
)
def test_any_access_is_answered(todo: list[tuple[int, int, int | None]]) -> None:
    domain = Domain()
    domain.write(aia.DOMAINCFG, aia.DOMAINCFG_IE)
    for source in range(1, WIRED_SOURCES):
        domain.aplic.set_line(source, source & 1)
    for offset, size, value in todo:
        if value is None:
            assert 0 <= domain.aplic.read(offset, size) < 1 << 32
        else:
            domain.aplic.write(offset, size, value & (1 << 8 * size) - 1)
    assert all(identity < 2048 for _hart, identity in domain.sent)
    assert not domain.read(aia.SETIP) & 1


# the interrupt file's page


@pytest.mark.parametrize(
    ("offset", "size", "value", "pending"),
    [
        (0, 4, 5, {5}), (0, 4, 255, {255}), (4, 4, 5 << 24, {5}), (0, 4, 0, set()), (0, 4, 256, set()),
        (0, 4, 0xFFFF_FFFF, set()), (0, 8, 5, set()), (0, 2, 5, set()), (8, 4, 5, set()), (0x1000, 4, 5, set()),
    ],
)  # fmt: skip
def test_written_identity_becomes_pending(bench: Bench, offset: int, size: int, value: int, pending: set[int]) -> None:
    imsic = Imsic([bench.hart], "SI")
    imsic.write(offset, size, value)
    bench.hart.pending_enabled()  # collects what was posted
    found = {64 * word + bit for word in range(4) for bit in range(64) if bench[f"SI_EIP{word}"] >> bit & 1}
    assert found == pending
    assert imsic.read(offset, size) == 0


def test_files_of_both_levels_are_apart(bench: Bench) -> None:
    Imsic([bench.hart], "MI").write(0, 4, 63)
    bench.hart.pending_enabled()
    assert (bench["MI_EIP0"], bench["SI_EIP0"]) == (1 << 63, 0)
