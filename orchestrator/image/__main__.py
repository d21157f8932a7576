"""``python -m orchestrator.image``: the image builder alone."""

from __future__ import annotations

import argparse
import sys

from orchestrator.image.command import add_arguments, run
from protocol.errors import BusvmError


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(prog="python -m orchestrator.image", description="Build guest images.")
    add_arguments(parser)
    try:
        return run(parser.parse_args(arguments))
    except BusvmError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"  hint: {error.hint}", file=sys.stderr)
        return error.exit_status
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
