"""Options of the disk become its configuration, or an error that says why not."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from devproc.virtio_blk.__main__ import _add_arguments, configure
from devproc.virtio_blk.config import Config
from protocol.errors import ConfigError


def parse(*arguments: str) -> Config:
    """Return the configuration of a command line."""
    parser = argparse.ArgumentParser(exit_on_error=False)
    _add_arguments(parser)
    return configure(parser.parse_args(["--image", "x", *arguments]))


def test_defaults_are_those_of_the_class() -> None:
    assert parse() == Config(image=Path("x"))


def test_every_policy_has_an_option() -> None:
    found = parse(
        *("--cache=none", "--discard=ignore", "--snapshot", "--block-size=4096"),
        *("--on-error=pause", "--iops=100", "--bytes-per-second=10M"),
    )

    assert (found.cache, found.discard, found.snapshot, found.block_size) == ("none", "ignore", True, 4096)
    assert (found.on_error, found.iops, found.bytes_per_second) == ("pause", 100, 10 << 20)
    assert parse("--direct").cache == "none"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--snapshot", "--readonly"], "--snapshot with --readonly"),
        (["--iops=-1"], "--iops -1"),
        (["--bytes-per-second=much"], "no size"),
    ],
)
def test_what_does_not_fit_is_said(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse(*arguments)
