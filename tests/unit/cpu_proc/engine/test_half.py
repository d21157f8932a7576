"""Loads and stores of half precision, which have no arithmetic (RISC-V unprivileged §23.2)."""

from __future__ import annotations

import pytest

from tests.unit.cpu_proc.harness import RAM, Bench, i_type, s_type

DATA = RAM + 0x1000
FLH, FSH = i_type(0x07, 1, 2, 1, 2), s_type(0x27, 1, 1, 2, 6)


@pytest.mark.parametrize("at", [DATA, DATA + 1, DATA + 0xFFD], ids=["aligned", "odd", "over two pages"])
@pytest.mark.parametrize("number", [0x3C00, 0xFC00])
def test_a_half_is_loaded_boxed_and_stored_alone(bench: Bench, at: int, number: int) -> None:
    bench["MSTATUS"] = 1 << 13
    bench.set_x(1, at)
    bench.store(at, 0xAAAA_AAAA_AAAA_AAAA)
    bench.store(at + 8, 0xAAAA)
    bench.store(at + 2, number, 2)
    for _ in range(2):  # the second time through the translation cache
        bench.run([FLH, FSH])
        assert bench.f(2) == 0xFFFF_FFFF_FFFF_0000 | number
    assert bench.load(at + 6, 2) == number
    assert bench.load(at + 4, 2) == bench.load(at + 8, 2) & 0xFFFF == 0xAAAA


def test_a_half_is_not_loaded_with_floating_point_off(bench: Bench) -> None:
    bench["MSTATUS"] = 0
    bench.set_x(1, DATA)
    bench.run([FLH], count=1)
    assert bench.trapped()[0] == 2
