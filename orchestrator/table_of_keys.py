"""``python -m orchestrator.table_of_keys docs/vm-toml.md``: write the table of keys anew into its documentation."""

from __future__ import annotations

import sys
from pathlib import Path

from orchestrator import schema

_HEAD = "| key | value | default | |\n"


def renewed(text: str) -> str:
    """Return the documentation with the table as it is now; raises ``ValueError`` if it has none."""
    start = text.index(_HEAD)
    end = text.index("\n\n", start) + 1
    return text[:start] + schema.markdown() + text[end:]


if __name__ == "__main__":
    _path = Path(sys.argv[1])
    _path.write_text(renewed(_path.read_text()))
