"""Operators between int64 values, lowered to the LLVM instruction that each of them is.

Numba would resolve every operator once more, among dozens of functions of its name.
"""

from __future__ import annotations

import operator
from typing import Any

from numba import types
from numba.core import lowering

if not hasattr(lowering.Lower, "lower_binop"):
    raise ImportError("this Numba release is not supported: numba.core.lowering.Lower.lower_binop is gone")

_INSTRUCTIONS = {
    operator.add: "add",
    operator.sub: "sub",
    operator.mul: "mul",
    operator.and_: "and_",
    operator.or_: "or_",
    operator.xor: "xor",
    operator.lshift: "shl",
    operator.rshift: "ashr",
}
_COMPARISONS = {
    operator.eq: "==",
    operator.ne: "!=",
    operator.lt: "<",
    operator.le: "<=",
    operator.gt: ">",
    operator.ge: ">=",
}
_BOTH = (types.int64, types.int64)


class Lower(lowering.Lower):
    """Numba's own, but for these operators."""

    def lower_binop(self, resty: Any, expr: Any, op: Any) -> Any:
        """Lower ``expr``; ``op`` is its operator, without an assignment in place."""
        signature = self.fndesc.calltypes[expr]
        if signature.args != _BOTH or not (op in _INSTRUCTIONS or op in _COMPARISONS):
            return super().lower_binop(resty, expr, op)
        left, right = (
            self.context.cast(self.builder, self.loadvar(operand.name), self.typeof(operand.name), types.int64)
            for operand in (expr.lhs, expr.rhs)
        )
        if op in _COMPARISONS:
            result = self.builder.icmp_signed(_COMPARISONS[op], left, right)
        else:
            result = getattr(self.builder, _INSTRUCTIONS[op])(left, right)
        return self.context.cast(self.builder, result, signature.return_type, resty)
