"""What is rendered as YAML."""

from __future__ import annotations

import json
from typing import Any

import yaml


def text(value: dict[str, Any], comment: str) -> str:
    """Return YAML behind ``comment``."""
    heading = "".join(f"# {line}".rstrip() + "\n" for line in comment.splitlines())
    plain = json.loads(json.dumps(value))  # what stands in several places is written in each, without anchors
    body: str = yaml.safe_dump(plain, sort_keys=False, width=120, allow_unicode=True)
    return f"{heading}\n{body}"
