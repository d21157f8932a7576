"""``python -m devproc.template``: the same as ``python -m devproc devproc.template.device:Rng``."""

from __future__ import annotations

import sys

from devproc.classes import program_of
from devproc.host import main
from devproc.template.device import Rng

PROGRAM = program_of(Rng, name="template")

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
