"""Log lines."""

from __future__ import annotations

import json
import logging

import pytest

from protocol.log import Context, Formatter, RateLimit


def record(text: str) -> logging.LogRecord:
    """Return a record at info level."""
    return logging.LogRecord("dev", logging.INFO, "file", 1, text, None, None)


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain", "msg=plain"), ("two words", 'msg="two words"'), ("a\nb", 'msg="a\\nb"'), ("", 'msg=""')],
)
def test_line_has_all_fields_and_is_one_line(text: str, shown: str) -> None:
    context = Context(vm="-", dev="d")
    context.set(vm="v", epoch=3)

    line = Formatter(context).format(record(text))

    assert "level=info vm=v dev=d epoch=3 name=dev " in line
    assert line.endswith(shown)
    assert "\n" not in line


def test_json() -> None:
    fields = json.loads(Formatter(Context(vm="v"), as_json=True).format(record("two words")))
    assert (fields["vm"], fields["msg"]) == ("v", "two words")


def test_rate_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [10.0]
    monkeypatch.setattr("protocol.log.time.monotonic", lambda: now[0])
    limit = RateLimit(2)
    assert [limit.allow() for _ in range(3)] == [True, True, False]
    now[0] = 11.0
    assert limit.allow()
