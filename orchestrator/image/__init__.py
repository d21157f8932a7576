"""Guest images: what ``orchestrator image`` builds.

`add_arguments` and `run` are for a command line; programs and tests call `orchestrator.image.debian.build_debian`.
"""

from orchestrator.image.command import add_arguments, run

__all__ = ["add_arguments", "run"]
