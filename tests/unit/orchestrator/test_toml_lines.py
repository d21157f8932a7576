"""Keys are found on their lines."""

from __future__ import annotations

import pytest

from orchestrator.toml_lines import Lines

TEXT = """\
# a comment with [brackets]
schema = 1

[vm]
name = "demo"   # = not a key
memory = 1

[boot]
cmdline = \"\"\"
memory = "inside a text"
[device]
\"\"\"
kernel = 'Image'

[[device]]
id = "disk0"
args = [
  "a", # ]
  "]",
]
image = "x"

[[ device ]]
"id" = "disk1"
boot.order = 2
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("schema",), 2),
        (("vm",), 4),
        (("vm", "memory"), 6),
        (("boot", "cmdline"), 9),
        (("boot", "kernel"), 13),
        (("device", 0), 15),
        (("device", 0, "args"), 17),
        (("device", 0, "image"), 21),
        (("device", 1, "id"), 24),
        (("device", 1, "boot", "order"), 25),
        (("device", 1, "missing"), 23),
        (("nothing", "at", "all"), 1),
    ],
)
def test_find_gives_the_line_of_the_key_or_of_what_holds_it(path: tuple[str | int, ...], line: int) -> None:
    lines = Lines(TEXT)

    assert lines.find(*path) == line


def test_find_in_an_empty_text_is_the_first_line() -> None:
    assert Lines("").find("vm", "name") == 1


def test_an_unfinished_text_ends_the_scan() -> None:
    assert Lines('a = """\nb = 1\n').find("b") == 1
    assert Lines("a = [\n1\n").find("a") == 1
