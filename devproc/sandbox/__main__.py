"""``python -m devproc.sandbox``: what of the sandbox this host has, as JSON; for `orchestrator doctor`."""

from __future__ import annotations

import json
import sys

from devproc.sandbox import landlock, seccomp


def main() -> int:
    """Say it."""
    found = {"landlock": landlock.version(landlock.libc_syscall()), "seccomp": seccomp.library() is not None}
    sys.stdout.write(json.dumps(found) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
