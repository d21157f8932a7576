"""Guest images: what ``orchestrator image`` builds.

`add_arguments` and `run` are for a command line, `build_debian` is for programs and tests.
"""

from orchestrator.image.command import add_arguments, run
from orchestrator.image.debian import Image, build_debian

__all__ = ["Image", "add_arguments", "build_debian", "run"]
