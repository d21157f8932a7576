"""Every promise in SPECIFICATION.md, and every line of docs/security.md, names a test or benchmark that exists."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SECURITY = ROOT / "docs" / "security.md"
NAMED = sorted(
    {
        name
        for page in (ROOT / "SPECIFICATION.md", SECURITY)
        for name in re.findall(r"`((?:tests|benchmarks)/[\w/.]+\.py(?:::\w+)?)`", page.read_text())
    }
)


@pytest.mark.parametrize("name", NAMED)
def test_what_keeps_a_promise_exists(name: str) -> None:
    path, _, function = name.partition("::")
    tree = ast.parse((ROOT / path).read_text())
    if function:
        assert function in {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}


def test_every_row_of_a_promise_names_one() -> None:
    header = ""
    for row in (ROOT / "SPECIFICATION.md").read_text().splitlines():
        if not row.startswith("|"):
            header = ""
        elif not header:
            header = row
        elif not row.startswith("|---") and not header.startswith("| program"):  # figures: what makes them is above
            assert re.search(r"`(tests|benchmarks)/", row), row


def test_every_line_of_the_threat_model_names_one() -> None:
    text = SECURITY.read_text().partition("## The sandbox")[0]
    rows = [row for row in text.splitlines() if row.startswith("| ") and not row.rstrip(" |").endswith("shown by")]
    assert len(rows) >= 10
    for row in rows:
        assert "`tests/" in row, row
