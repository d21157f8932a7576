"""How our programs speak on the command line: an error is one line, with a hint, and a status of its kind."""

from __future__ import annotations

import argparse
import sys
from typing import NoReturn

from protocol import log
from protocol.errors import BusvmError


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        """End the program."""
        self.exit(2, f"{self.prog}: error: {message}\n")

    def add_log_options(self) -> None:
        """Add what is logged, and how."""
        self.add_argument("--log-level", choices=log.LEVELS, default="info", help="default: info")
        self.add_argument("--log-json", action="store_true", help="log lines as JSON objects")

    def failed(self, error: BusvmError) -> int:
        """Print an error of ours; return the exit status."""
        hint = f" ({error.hint})" if error.hint else ""
        sys.stderr.write(f"{self.prog}: error: {error.message}{hint}\n")
        return error.exit_status
