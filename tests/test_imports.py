"""Packages import ``protocol``, never each other; the orchestrator also knows the embedded guest (DESIGN §4)."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGES = {"orchestrator", "cpu_proc", "devproc", "protocol", "guest"}
ALLOWED = {
    "protocol": set[str](),
    "guest": set[str](),
    "cpu_proc": {"protocol"},
    "devproc": {"protocol"},
    "orchestrator": {"protocol", "guest"},
}


def imports(path: Path) -> Iterator[str]:
    """Return the packages that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name.split(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_a_package_imports_only_what_it_may(package: str) -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in sorted((ROOT / package).rglob("*.py"))
        for name in imports(path)
        if name in PACKAGES - {package} - ALLOWED[package]
    ]

    assert not wrong


def test_only_one_module_imports_a_dbus_library() -> None:
    def names(path: Path) -> set[str]:
        texts = {str(node.value) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Constant)}
        return {*imports(path), *texts}

    found = {
        str(path.relative_to(ROOT))
        for package in PACKAGES
        for path in (ROOT / package).rglob("*.py")
        if {"dbus_fast", "dbus_next"} & names(path)
    }

    assert found == {"protocol/bus.py"}
