"""Litmus tests of the memory model between two and four harts (RISC-V unprivileged §17, RVWMO).

In most of them the harts meet at a barrier before each round, store the number of the round, and write down what they
read; what must not be is looked for afterwards, over all rounds. How many there are depends on the time given.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from tests.unit.cpu_proc.gang import LINE, RESULT_BYTES, RESULTS, SHARED, STOP, Gang, assemble, to
from tests.unit.cpu_proc.harness import addi, amo, b_type, jal, load, store

X, Y, ARRIVED = (SHARED + LINE * n for n in (1, 2, 3))
FENCE, FENCE_R_RW, FENCE_RW_W, FENCE_TSO = 0x0330_000F, 0x0230_000F, 0x0310_000F, 0x8330_000F
AQ, RL = 2 << 25, 1 << 25
LIMIT = RESULT_BYTES // 16  # rounds for which there is room
SECONDS = 0.5
STORE_X, STORE_Y = store("d", 6, 10), store("d", 6, 11)
X_TO_28, X_TO_29, Y_TO_28, Y_TO_29 = load("d", 28, 10), load("d", 29, 10), load("d", 28, 11), load("d", 29, 11)


@pytest.fixture(scope="module")
def _gang() -> Iterator[Gang]:
    gang = Gang(4)
    yield gang
    gang.close()


@pytest.fixture
def gang(_gang: Gang) -> Gang:
    """Return four harts that do nothing yet."""
    _gang.reset()
    return _gang


def in_step(*body: int) -> list[int]:
    """Return a program that does ``body`` once a round, together with the other hart; x6 is the round."""
    return assemble(
        "again",
        to("end", lambda offset: b_type(5, 6, 15, offset)),
        addi(6, 6, 1),
        store("d", 6, 12),
        FENCE,
        "wait",
        load("d", 7, 5),
        to("end", lambda offset: b_type(1, 7, 0, offset)),
        load("d", 7, 13),
        to("wait", lambda offset: b_type(4, 7, 6, offset)),
        *body,
        store("d", 28, 14),
        store("d", 29, 14, 8),
        addi(14, 14, 16),
        to("again", lambda offset: jal(0, offset)),
        "end",
    )


def alone(*body: int) -> list[int]:
    """Return a program that does ``body`` again and again, at its own pace."""
    return assemble(
        "again",
        to("end", lambda offset: b_type(5, 6, 15, offset)),
        addi(6, 6, 1),
        *body,
        store("d", 28, 14),
        store("d", 29, 14, 8),
        addi(14, 14, 16),
        load("d", 7, 5),
        to("again", lambda offset: b_type(0, 7, 0, offset)),
        "end",
    )


def writing(word: int) -> list[int]:
    """Return a program that stores one number after the other until it is told to end."""
    return assemble(
        "again",
        addi(6, 6, 1),
        word,
        load("d", 7, 5),
        to("again", lambda offset: b_type(0, 7, 0, offset)),
    )


def prepare(gang: Gang, index: int, words: list[int]) -> None:
    """Give a hart its program and the registers that all of them use."""
    gang.program(
        index, words, x5=STOP, x6=0, x10=X, x11=Y, x12=ARRIVED + LINE * (index & 1),
        x13=ARRIVED + LINE * (~index & 1), x14=RESULTS + RESULT_BYTES * index, x15=LIMIT,
    )  # fmt: skip


def samples(gang: Gang, index: int) -> Any:
    """Return what a hart has written down: a row of two values for each round."""
    rounds = (int(gang.harts[index].x[14]) - RESULTS - RESULT_BYTES * index) // 16
    return gang.results(index, 2 * rounds).reshape(-1, 2)


def together(gang: Gang, first: list[int], second: list[int]) -> tuple[Any, Any, Any]:
    """Run two programs in step; return the numbers of the rounds and what either saw in them."""
    prepare(gang, 0, in_step(*first))
    prepare(gang, 1, in_step(*second))
    gang.start(0, 1)
    gang.finish(SECONDS)
    ours, theirs = samples(gang, 0), samples(gang, 1)
    count = min(len(ours), len(theirs))
    assert count > 20
    return np.arange(1, count + 1), ours[:count], theirs[:count]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([STORE_X, FENCE, STORE_Y], [Y_TO_28, FENCE, X_TO_29]),
        ([STORE_X, FENCE_RW_W, STORE_Y], [Y_TO_28, FENCE_R_RW, X_TO_29]),
        ([STORE_X, FENCE_TSO, STORE_Y], [Y_TO_28, FENCE_TSO, X_TO_29]),
        ([STORE_X, amo(1, 8, 0, 11, 6) | RL], [amo(8, 8, 28, 11, 0) | AQ, X_TO_29]),
        ([STORE_X, amo(1, 8, 0, 11, 6) | RL], [Y_TO_28, FENCE_R_RW, X_TO_29]),
    ],
    ids=["full", "release-acquire", "tso", "amo", "amo-fence"],
)
def test_message_passing(gang: Gang, first: list[int], second: list[int]) -> None:
    """Who sees the flag sees the data."""
    rounds, _, seen = together(gang, first, second)
    assert not np.any((seen[:, 0] == rounds) & (seen[:, 1] < rounds))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([STORE_X, FENCE, Y_TO_28], [STORE_Y, FENCE, X_TO_28]),
        ([amo(1, 8, 0, 10, 6) | AQ | RL, amo(8, 8, 28, 11, 0) | AQ | RL], [STORE_Y, FENCE, X_TO_28]),
    ],
    ids=["fence", "amo"],
)
def test_store_buffering(gang: Gang, first: list[int], second: list[int]) -> None:
    """With a full fence between, one of the two loads sees the other's store; without, neither need to."""
    rounds, ours, theirs = together(gang, first, second)
    assert not np.any((ours[:, 0] < rounds) & (theirs[:, 0] < rounds))


def test_load_buffering(gang: Gang) -> None:
    """Nobody reads what is stored later on."""
    rounds, ours, theirs = together(gang, [X_TO_28, FENCE, STORE_Y], [Y_TO_28, FENCE, STORE_X])
    assert not np.any((ours[:, 0] == rounds) & (theirs[:, 0] == rounds))


def test_own_store_is_seen_at_once(gang: Gang) -> None:
    rounds, ours, theirs = together(gang, [STORE_X, X_TO_28, Y_TO_29], [STORE_Y, Y_TO_28, X_TO_29])
    assert np.all(ours[:, 0] == rounds)
    assert np.all(theirs[:, 0] == rounds)


def test_reads_of_one_place_do_not_go_back(gang: Gang) -> None:
    """CoRR."""
    prepare(gang, 0, writing(STORE_X))
    for index in (1, 2):
        prepare(gang, index, alone(X_TO_28, X_TO_29))
    gang.start(0, 1, 2)
    gang.finish(SECONDS)
    for index in (1, 2):
        seen = samples(gang, index)
        assert len(seen) > 20
        assert np.all(np.diff(seen.reshape(-1)) >= 0)


def test_stores_of_two_harts_to_one_place_have_one_order(gang: Gang) -> None:
    """CoWW and CoRR: two readers of one place never see two values in opposite orders."""
    prepare(gang, 0, writing(STORE_X))
    prepare(gang, 1, writing(STORE_X))
    gang.harts[1].x[6] = 1 << 40
    for index in (2, 3):
        prepare(gang, index, alone(X_TO_28, X_TO_29))
    gang.start()
    gang.finish(SECONDS)
    orders = []
    for index in (2, 3):
        values = samples(gang, index).reshape(-1)
        for low, high in ((0, 1 << 40), (1 << 40, 1 << 62)):  # what one hart has stored comes in its order
            own = values[(values >= low) & (values < high)]
            assert np.all(np.diff(own) >= 0)
        orders.append({value: place for place, value in enumerate(values.tolist())})
    common = sorted(orders[0].keys() & orders[1].keys(), key=orders[0].__getitem__)
    assert [orders[1][value] for value in common] == sorted(orders[1][value] for value in common)


def test_independent_readers_agree_on_the_order_of_independent_writes(gang: Gang) -> None:
    """IRIW with fences: stores are seen by all others at once."""
    prepare(gang, 0, writing(STORE_X))
    prepare(gang, 1, writing(STORE_Y))
    prepare(gang, 2, alone(X_TO_28, FENCE, Y_TO_29))
    prepare(gang, 3, alone(Y_TO_28, FENCE, X_TO_29))
    gang.start()
    gang.finish(SECONDS)
    x_first, y_first = samples(gang, 2), samples(gang, 3)
    assert len(x_first) > 20
    assert len(y_first) > 20
    # forbidden: one reader has seen an X that the other had not yet seen after a Y that the former misses
    by_x = y_first[np.argsort(y_first[:, 1], kind="stable")]
    newest_y = np.maximum.accumulate(by_x[:, 0])
    older = np.searchsorted(by_x[:, 1], x_first[:, 0], side="left")  # samples with an older X
    has_older = older > 0
    assert not np.any(newest_y[older[has_older] - 1] > x_first[has_older, 1])
