"""``python -m devproc.virtio_rng``: an entropy device."""

from __future__ import annotations

import sys
from dataclasses import replace

from devproc.classes import program_of
from devproc.host import main
from devproc.virtio_rng.device import EntropyDevice

PROGRAM = replace(program_of(EntropyDevice, name="virtio-rng"), capabilities={"type": "rng"})

if __name__ == "__main__":
    sys.exit(main(PROGRAM))
