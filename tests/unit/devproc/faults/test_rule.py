"""Which occasions a rule strikes at, and what it turns round."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from devproc.faults.rule import Kind, Rule


def strikes(rule: Rule, occasions: int = 12) -> list[int]:
    """Return the numbers of the occasions at which it strikes."""
    hits: list[int] = []
    for seen in range(1, occasions + 1):
        if rule.strikes(seen, len(hits)):
            hits.append(seen)
    return hits


def test_which_occasions() -> None:
    assert strikes(Rule(Kind.DROP)) == list(range(1, 13))
    assert strikes(Rule(Kind.DROP, nth=3)) == [3]
    assert strikes(Rule(Kind.DROP, every=4)) == [4, 8, 12]
    assert strikes(Rule(Kind.DROP, every=4, count=2)) == [4, 8]
    assert strikes(Rule(Kind.DROP, first=3)) == [1, 2, 3]
    assert strikes(Rule(Kind.DROP, count=1)) == [1]


def test_a_probability_is_one_and_the_same_seed_the_same_faults() -> None:
    rule = Rule(Kind.DROP, probability=0.2, seed=5)

    found = strikes(rule, 10_000)

    assert 1850 < len(found) < 2150
    assert found == strikes(rule, 10_000)
    assert found != strikes(Rule(Kind.DROP, probability=0.2, seed=6), 10_000)


@given(st.integers(0, 1 << 62), st.integers(1, 1 << 40), st.integers(0, 600), st.integers(1, 64))
def test_as_many_bits_or_bytes_are_turned_round_as_asked_for(seed: int, seen: int, size: int, wanted: int) -> None:
    bits = Rule(Kind.CORRUPT, bits=wanted, seed=seed).flips(seen, size)
    octets = Rule(Kind.CORRUPT, octets=wanted, seed=seed).flips(seen, size)

    assert sum(value.bit_count() for value in bits.values()) == min(wanted, 8 * size)
    assert len(octets) == min(wanted, size)
    assert all(0 <= at < size and 0 < value < 256 for found in (bits, octets) for at, value in found.items())
    assert bits == Rule(Kind.CORRUPT, bits=wanted, seed=seed).flips(seen, size)
