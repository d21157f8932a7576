"""``python -m devproc.template``: arguments → configuration → device."""

from __future__ import annotations

import argparse
import sys

from devproc.host import Program, main
from devproc.template.device import Config, Rng


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=int, default=0, metavar="N", help="words to hand out (default: no limit)")


PROGRAM = Program(
    type="template",
    description="A random-number source: the smallest device, to copy.",
    open=lambda options: Rng(Config(limit=options.limit)),
    add_arguments=_add_arguments,
)

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
