"""ABI names of the registers (RISC-V ABIs specification §1)."""

from __future__ import annotations

INTEGER = (
    *("zero", "ra", "sp", "gp", "tp"),
    *(f"t{i}" for i in range(3)),
    *(f"s{i}" for i in range(2)),
    *(f"a{i}" for i in range(8)),
    *(f"s{i}" for i in range(2, 12)),
    *(f"t{i}" for i in range(3, 7)),
)
FLOAT = (
    *(f"ft{i}" for i in range(8)),
    *(f"fs{i}" for i in range(2)),
    *(f"fa{i}" for i in range(8)),
    *(f"fs{i}" for i in range(2, 12)),
    *(f"ft{i}" for i in range(8, 12)),
)
