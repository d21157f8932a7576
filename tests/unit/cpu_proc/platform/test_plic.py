"""The PLIC: gateways, priorities, thresholds, claim and completion, beside a model that is as slow as it is plain."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as some

from cpu_proc.engine.state import M, S
from cpu_proc.memory_map import WIRED_SOURCES
from cpu_proc.platform import plic
from cpu_proc.platform.plic import Plic

UART, DISK, EDGE = 10, 33, 40
HART0_M, HART0_S, HART1_M, HART1_S = range(4)


class Board:
    """Two harts and their lines."""

    def __init__(self, edges: frozenset[int] = frozenset({EDGE})) -> None:
        self.lines = {(hart, mode): 0 for hart in (0, 1) for mode in (M, S)}
        self.plic = Plic(2, self._set, edges)

    def _set(self, hart: int, mode: int, level: int) -> None:
        self.lines[hart, mode] = level

    def priority(self, source: int, value: int) -> None:
        """Set a priority."""
        self.plic.write(plic.PRIORITY + 4 * source, 4, value)

    def enable(self, context: int, *sources: int) -> None:
        """Enable these sources and no others."""
        bits = sum(1 << source for source in sources)
        for word in range(3):
            self.plic.write(plic.ENABLE + plic.ENABLE_STRIDE * context + 4 * word, 4, bits >> 32 * word & 0xFFFF_FFFF)

    def threshold(self, context: int, value: int) -> None:
        """Set a threshold."""
        self.plic.write(plic.CONTEXT + plic.CONTEXT_STRIDE * context, 4, value)

    def claim(self, context: int) -> int:
        """Claim."""
        return self.plic.read(plic.CONTEXT + plic.CONTEXT_STRIDE * context + plic.CLAIM, 4)

    def complete(self, context: int, source: int) -> None:
        """Complete."""
        self.plic.write(plic.CONTEXT + plic.CONTEXT_STRIDE * context + plic.CLAIM, 4, source)

    def pending(self) -> int:
        """Return all pending bits."""
        return sum(self.plic.read(plic.PENDING + 4 * word, 4) << 32 * word for word in range(3))


@pytest.fixture
def board() -> Board:
    """Return a board whose hart 0 takes everything in S mode."""
    board = Board()
    for source in range(1, WIRED_SOURCES):
        board.priority(source, 1)
    board.enable(HART0_S, *range(1, WIRED_SOURCES))
    return board


def test_a_level_is_claimed_once_and_again_while_it_lasts(board: Board) -> None:
    board.plic.set_line(UART, 1)
    assert board.lines[0, S] == 1
    assert board.lines[0, M] == 0
    assert board.claim(HART0_S) == UART
    assert board.lines[0, S] == 0
    assert board.claim(HART0_S) == 0
    board.complete(HART0_S, UART)
    assert board.lines[0, S] == 1  # the wire is still high
    assert board.claim(HART0_S) == UART
    board.plic.set_line(UART, 0)
    board.complete(HART0_S, UART)
    assert board.lines[0, S] == 0


def test_a_request_outlives_its_wire(board: Board) -> None:
    board.plic.set_line(UART, 1)
    board.plic.set_line(UART, 0)
    assert board.claim(HART0_S) == UART


def test_an_edge_is_one_request_and_one_more_is_remembered(board: Board) -> None:
    board.plic.set_line(EDGE, 1)
    assert board.claim(HART0_S) == EDGE
    board.complete(HART0_S, EDGE)
    assert board.claim(HART0_S) == 0  # the wire is high, but no edge came
    board.plic.set_line(EDGE, 0)
    board.plic.set_line(EDGE, 1)
    assert board.claim(HART0_S) == EDGE
    for _ in range(3):
        board.plic.set_line(EDGE, 0)
        board.plic.set_line(EDGE, 1)
    board.complete(HART0_S, EDGE)
    assert board.claim(HART0_S) == EDGE
    board.complete(HART0_S, EDGE)
    assert board.claim(HART0_S) == 0


def test_the_higher_priority_goes_first_then_the_lower_number(board: Board) -> None:
    board.priority(DISK, 3)
    for source in (UART + 1, UART, DISK):
        board.plic.set_line(source, 1)
    assert [board.claim(HART0_S) for _ in range(4)] == [DISK, UART, UART + 1, 0]


def test_the_threshold_masks_the_line_and_not_the_claim(board: Board) -> None:
    board.threshold(HART0_S, 1)
    board.plic.set_line(UART, 1)
    assert board.lines[0, S] == 0
    board.priority(UART, 2)
    assert board.lines[0, S] == 1
    board.threshold(HART0_S, 7)
    assert board.lines[0, S] == 0
    assert board.claim(HART0_S) == UART


def test_priority_zero_never_interrupts(board: Board) -> None:
    board.priority(UART, 0)
    board.plic.set_line(UART, 1)
    assert board.lines[0, S] == 0
    assert board.claim(HART0_S) == 0
    assert board.pending() == 1 << UART


def test_completion_by_a_context_that_did_not_enable_it_is_ignored(board: Board) -> None:
    board.plic.set_line(UART, 1)
    assert board.claim(HART0_S) == UART
    board.complete(HART1_S, UART)
    assert board.lines[0, S] == 0
    board.complete(HART0_S, WIRED_SOURCES + 1)
    board.complete(HART0_S, DISK)
    assert board.pending() == 0


def test_the_first_of_two_harts_gets_it(board: Board) -> None:
    board.enable(HART1_M, UART)
    board.plic.set_line(UART, 1)
    assert (board.lines[0, S], board.lines[1, M]) == (1, 1)
    assert board.claim(HART1_M) == UART
    assert (board.lines[0, S], board.lines[1, M]) == (0, 0)
    assert board.claim(HART0_S) == 0


def test_registers_keep_what_exists_of_them(board: Board) -> None:
    assert board.plic.read(plic.PRIORITY, 4) == 0
    board.priority(0, 7)
    assert board.plic.read(plic.PRIORITY, 4) == 0
    board.priority(UART, 0xFF)
    assert board.plic.read(plic.PRIORITY + 4 * UART, 4) == 7
    board.plic.write(plic.ENABLE + plic.ENABLE_STRIDE, 4, 0xFFFF_FFFF)
    assert board.plic.read(plic.ENABLE + plic.ENABLE_STRIDE, 4) == 0xFFFF_FFFE
    board.plic.write(plic.PENDING, 4, 0xFFFF_FFFF)
    assert board.pending() == 0
    board.threshold(HART1_S, 0x1D)
    assert board.plic.read(plic.CONTEXT + plic.CONTEXT_STRIDE * HART1_S, 4) == 5


@pytest.mark.parametrize(
    "offset", [4 * WIRED_SOURCES, 0x100C, 0x200C, 0x2200, 0x20_0008, 0x20_4000, 0x20_4004, 0x5F_FFFC]
)
@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_where_nothing_is_reads_as_zero(board: Board, offset: int, size: int) -> None:
    board.plic.write(offset, size, (1 << 8 * size) - 1)
    assert board.plic.read(offset, size) == 0


def test_reset_drops_requests_and_sees_the_wires_again(board: Board) -> None:
    board.plic.set_line(UART, 1)
    board.claim(HART0_S)
    board.plic.set_line(DISK, 1)
    board.plic.reset()
    assert board.lines[0, S] == 0
    assert board.pending() == 1 << UART | 1 << DISK
    board.priority(DISK, 1)
    board.enable(HART0_S, UART, DISK)
    assert board.claim(HART0_S) == DISK


@dataclass
class Model:
    """The specification's words, source by source."""

    edges: frozenset[int]
    level: dict[int, int] = field(default_factory=dict)
    pending: set[int] = field(default_factory=set)
    in_flight: set[int] = field(default_factory=set)
    remembered: set[int] = field(default_factory=set)
    priority: dict[int, int] = field(default_factory=dict)
    enabled: dict[int, frozenset[int]] = field(default_factory=dict)
    threshold: dict[int, int] = field(default_factory=dict)

    def wire(self, source: int, level: int) -> None:
        """Change a wire."""
        rise = level and not self.level.get(source, 0)
        self.level[source] = level
        if rise and source in self.in_flight:
            self.remembered |= {source} & self.edges
        elif rise:
            self.pending.add(source)

    def claimable(self, context: int, above: int) -> list[int]:
        """Return who competes, the winner first."""
        able = [
            source
            for source in self.pending & self.enabled.get(context, frozenset())
            if self.priority.get(source, 0) > above
        ]
        return sorted(able, key=lambda source: (-self.priority[source], source))

    def claim(self, context: int) -> int:
        """Claim."""
        for source in self.claimable(context, 0)[:1]:
            self.pending.remove(source)
            self.in_flight.add(source)
            return source
        return 0

    def complete(self, context: int, source: int) -> None:
        """Complete."""
        if source not in self.in_flight or source not in self.enabled.get(context, frozenset()):
            return
        self.in_flight.remove(source)
        if source in self.remembered or (source not in self.edges and self.level.get(source)):
            self.pending.add(source)
        self.remembered.discard(source)


SOURCES = some.sampled_from([1, 2, 31, 32, 63, 64, 95])
CONTEXTS = some.integers(0, 3)
STEPS = some.lists(
    some.one_of(
        some.tuples(some.just("wire"), SOURCES, some.integers(0, 1)),
        some.tuples(some.just("claim"), CONTEXTS, some.just(0)),
        some.tuples(some.just("complete"), CONTEXTS, SOURCES),
        some.tuples(some.just("priority"), SOURCES, some.integers(0, 7)),
        some.tuples(some.just("threshold"), CONTEXTS, some.integers(0, 7)),
        some.tuples(some.just("enable"), CONTEXTS, some.frozensets(SOURCES)),
    ),
    max_size=60,
)


@given(STEPS, some.frozensets(SOURCES))
def test_any_sequence_agrees_with_the_model(steps: list[tuple[str, int, object]], edges: frozenset[int]) -> None:
    board, model = Board(edges), Model(edges)
    for what, first, second in steps:
        if what == "enable":
            assert isinstance(second, frozenset)
            board.enable(first, *second)
            model.enabled[first] = second
        else:
            assert isinstance(second, int)
            if what == "wire":
                board.plic.set_line(first, second)
                model.wire(first, second)
            elif what == "claim":
                assert board.claim(first) == model.claim(first)
            elif what == "complete":
                board.complete(first, second)
                model.complete(first, second)
            elif what == "priority":
                board.priority(first, second)
                model.priority[first] = second
            else:
                board.threshold(first, second)
                model.threshold[first] = second
        assert board.pending() == sum(1 << source for source in model.pending)
        for context in range(4):
            line = board.lines[context >> 1, S if context & 1 else M]
            assert line == bool(model.claimable(context, model.threshold.get(context, 0)))
