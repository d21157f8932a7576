"""Where things are in the image, as the Containerfile and ``render`` have it."""

from __future__ import annotations

import re
from pathlib import Path

from orchestrator.render import inside

TEXT = (Path(__file__).parents[4] / "Containerfile").read_text()


def test_the_image_has_what_render_expects() -> None:
    words = re.search(r"^ENV (XDG_RUNTIME_DIR=.*)$", TEXT, re.MULTILINE)
    assert words is not None
    assert dict(word.split("=") for word in words[1].split()) == inside.ENVIRONMENT
    assert f"{inside.GUEST}\n" in TEXT
    assert f"ARG ID={inside.USER}\n" in TEXT


def test_it_is_built_of_any_base_and_names_no_registry() -> None:
    assert re.findall(r"^FROM (.*)$", TEXT, re.MULTILINE) == ["${BASE}"]
    assert not re.search(r"https?://|\b[a-z0-9-]+\.(io|org|com|dev)/", TEXT)
