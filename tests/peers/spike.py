"""Spike, the reference simulator of RISC-V International. No distribution packages it: see docs/testing.md.

``BUSVM_SPIKE`` names the program; otherwise it is ``spike`` on the search path.
"""

from __future__ import annotations

import os
import shutil


def command() -> list[str]:
    """Return the words that start it, without options; nothing if it is not here."""
    found = shutil.which(os.environ.get("BUSVM_SPIKE", "spike"))
    return [found] if found else []
