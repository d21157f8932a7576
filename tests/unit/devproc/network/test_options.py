"""What a card that stands by has imported before it is needed."""

from __future__ import annotations

import subprocess
import sys

import pytest

from devproc.network.options import BACKENDS

_WORDS = {
    "tap": ("--interface", "busvmnone"),
    "stream": ("--address", "unix:/nowhere/socket"),
    "dgram": ("--remote", "unix:/nowhere/socket"),
    "hub": ("--hub", "/nowhere/socket"),
}
_SCRIPT = """
import argparse, contextlib, sys
from devproc.network import options
parser = argparse.ArgumentParser()
options.add_arguments(parser)
given = parser.parse_args(sys.argv[1:])
options.load(given)
before = set(sys.modules)
with contextlib.suppress(Exception):
    options.open_network(given).close()
print(*(name for name in set(sys.modules) - before if name.startswith("devproc")))
"""


@pytest.mark.parametrize("backend", sorted(BACKENDS))
def test_opening_a_network_imports_nothing_more(backend: str) -> None:
    words = ["--backend", backend, *_WORDS.get(backend, ())]
    done = subprocess.run([sys.executable, "-c", _SCRIPT, *words], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []
