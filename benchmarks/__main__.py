"""``python -m benchmarks [NAME …]``: measure, and print every figure with its budget and its peer."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
import time

SUITES = (
    "cpu", "floating", "harts", "link", "start", "boot", "vhost_user", "disk_under_qemu", "disk", "network",
    "ivshmem", "snapshots", "workloads", "kills", "soak", "fleet", "containers",
)  # fmt: skip


def main(argv: list[str]) -> int:
    """Run the suites named in ``argv``, or all; return 1 when a budget is missed."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("suites", nargs="*", metavar="NAME", help=", ".join(SUITES))
    parser.add_argument("--engine", choices=("interp", "translate"), help="vm.engine of every guest")
    options = parser.parse_args(argv)
    unknown = set(options.suites) - set(SUITES)
    if unknown:
        print(f"no suite {', '.join(sorted(unknown))}; there are {', '.join(SUITES)}", file=sys.stderr)
        return 2
    if options.engine:
        os.environ["BUSVM_ENGINE"] = options.engine
    missed = 0
    for name in options.suites or SUITES:
        started = time.monotonic()
        for figure in importlib.import_module(f"benchmarks.{name}").measure():
            print(figure.line(), flush=True)
            missed += figure.met is False
        print(f"-- {name}: {time.monotonic() - started:.0f} s", flush=True)
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
