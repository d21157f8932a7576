"""The command line: ``orchestrator VERB``, or ``python -m orchestrator VERB``.

Exit status: 0 done, 1 failure, 2 configuration or usage, 3 no such VM, 4 the host lacks something, 124 ``--wait``
timed out; ``up`` ends with the guest's own.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence
from typing import NoReturn

from protocol.errors import BusvmError

_VERBS = {  # verb → module; only the module of the verb that was given is loaded
    "up": "up",
    "down": "down",
    "ps": "ps",
    "logs": "logs",
    "console": "join",
    "env": "describe",
    "config": "describe",
    "validate": "describe",
    "inspect": "inspect",
    "trace": "trace",
    "device": "device",
    "pause": "control",
    "resume": "control",
    "reset": "control",
    "powerdown": "control",
    "restart": "control",
    "link": "link",
    "fault": "fault",
    "reload": "change",
    "swap": "change",
    "attach": "plug",
    "detach": "plug",
    "snapshot": "snapshot",
    "gdb": "gdb",
    "image": "images",
    "render": "render",
    "doctor": "doctor",
}


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"error: {message} (`{self.prog} --help`)\n")


def parser(modules: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser with the verbs of ``modules``."""
    top = _Parser(
        prog="orchestrator",
        description="Run machines whose devices are processes. Without a VM's name a command means the one of "
        "vm.toml in this folder, or the only one that runs.",
    )
    verbs = top.add_subparsers(dest="verb", metavar="VERB", required=True, parser_class=_Parser)
    for module in modules:
        importlib.import_module(f"orchestrator.commands.{module}").add(verbs)
    return top


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return its exit status."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    given = next((_VERBS[word] for word in words[:1] if word in _VERBS), None)
    options = parser([given] if given else list(dict.fromkeys(_VERBS.values()))).parse_args(words)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except BusvmError as error:
        from orchestrator.output import failed

        return failed(error)
    except BrokenPipeError:  # `orchestrator logs | head`
        sys.stdout = None
        return 0
    except KeyboardInterrupt:
        return 130
    return status


if __name__ == "__main__":
    sys.exit(main())
