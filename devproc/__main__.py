"""``python -m devproc MODULE:CLASS [OPTION…]``: a device of your own from its class alone."""

from __future__ import annotations

import sys

from devproc.classes import find, program_of
from devproc.host import main
from protocol.errors import ConfigError

_USAGE = "usage: python -m devproc MODULE:CLASS [OPTION…]   (--help after the class shows its options)"


def _main(arguments: list[str]) -> int:
    if not arguments or ":" not in arguments[0]:
        print(_USAGE, file=sys.stdout if arguments[:1] in (["-h"], ["--help"]) else sys.stderr)
        return 0 if arguments[:1] in (["-h"], ["--help"]) else 2
    name, *rest = arguments
    try:
        program = program_of(find(name))
    except (ConfigError, TypeError) as error:
        hint = f" ({error.hint})" if isinstance(error, ConfigError) and error.hint else ""
        print(f"python -m devproc {name}: error: {error}{hint}", file=sys.stderr)
        return 2
    return main(program, rest, prog=f"python -m devproc {name}")


if __name__ == "__main__":
    sys.exit(_main(sys.argv[1:]))
