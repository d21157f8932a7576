"""A program on a hart of each engine."""

from __future__ import annotations

from collections.abc import Iterable

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.unit.cpu_proc.harness import BUDGET, RAM, Bench

STATE = ("PC", "PRIV", "INSTRET", "MSTATUS", "MEPC", "MCAUSE", "MTVAL", "FFLAGS", "FRM", "BUDGET", "RESERVATION")


class Pair:
    """Two harts that get the same and must do the same."""

    def __init__(self) -> None:
        self.slow, self.fast = self.both = Bench(engine_name=INTERPRETER), Bench(engine_name=TRANSLATOR)

    def reset(self) -> None:
        """Forget everything."""
        for bench in self.both:
            bench.reset()

    def close(self) -> None:
        """Give the memory back."""
        for bench in self.both:
            bench.close()

    def run(self, program: Iterable[int], x: dict[int, int] | None = None, *, at: int = RAM) -> Bench:
        """Execute the words once, from the given registers, and compare; return the hart that translates."""
        words = list(program)
        for bench in self.both:
            for number, value in (x or {}).items():
                bench.set_x(number, value)
            reason = bench.run(words, at=at)
            assert reason == BUDGET
        self.compare()
        return self.fast

    def compare(self) -> None:
        """Compare registers, state and memory."""
        assert [self.slow.x(i) for i in range(32)] == [self.fast.x(i) for i in range(32)]
        assert [self.slow.f(i) for i in range(32)] == [self.fast.f(i) for i in range(32)]
        assert {name: self.slow[name] for name in STATE} == {name: self.fast[name] for name in STATE}
        assert self.slow.ram.u8 == self.fast.ram.u8
