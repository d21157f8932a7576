"""Sizes as people write them."""

from __future__ import annotations

import pytest

from protocol.errors import ConfigError
from protocol.sizes import format_size, parse_size


@pytest.mark.parametrize(
    ("text", "size"),
    [("4096", 4096), ("512M", 512 << 20), ("1G", 1 << 30), ("2k", 2048), ("1.5G", 3 << 29), (" 3 MiB", 3 << 20)],
)
def test_a_size_is_read(text: str, size: int) -> None:
    assert parse_size(text) == size


@pytest.mark.parametrize("text", ["", "M", "-1", "1.", "12X", "0x10"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="no size"):
        parse_size(text)


@pytest.mark.parametrize("text", ["512M", "1G", "3K", "7", "0"])
def test_a_size_is_written_as_it_was_read(text: str) -> None:
    assert format_size(parse_size(text)) == text
