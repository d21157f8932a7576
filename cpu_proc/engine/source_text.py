"""Putting generated Python together: renamed expressions, constants, if-chains."""

from __future__ import annotations

import ast
import re


class Rename(ast.NodeTransformer):
    """Put the generated expressions in the place of a semantic function's parameters."""

    def __init__(self, names: dict[str, str]) -> None:
        self.names = {name: ast.parse(text, mode="eval").body for name, text in names.items()}

    def visit_Name(self, node: ast.Name) -> ast.AST:
        return self.names.get(node.id, node)


def renamed(text: str, names: dict[str, str]) -> str:
    """Return the expression ``text`` with expressions in the place of names."""
    return ast.unparse(Rename(names).visit(ast.parse(text, mode="eval").body))


def signed(value: int) -> int:
    """Return a 64-bit constant as the int64 that Numba must see."""
    return value - (1 << 64) if value >= 1 << 63 else value


_LOCALS = re.compile(r"\b(t|a|k|v|host|operand|old|seen)\b")


def chain(rows: list[tuple[str, list[str]]], indent: int) -> str:
    """Return an if-chain of (condition, body).

    Every branch gets variables of its own: Numba takes minutes over one name that many branches assign.
    """
    pad = "    " * indent
    lines = []
    for index, (condition, body) in enumerate(rows):
        lines.append(f"{pad}{'if' if index == 0 else 'elif'} {condition}:")
        own = rf"\1_{index}"
        lines.extend(f"{pad}    {_LOCALS.sub(own, line)}" for line in body)
    return "\n".join(lines)
