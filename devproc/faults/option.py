"""``--fault RULE`` of a device's program: rules that are there from the first access on."""

from __future__ import annotations

import argparse
from dataclasses import replace

from devproc.device import Device
from devproc.host import Program


def with_faults(program: Program) -> Program:
    """Return the program with the option."""

    def add_arguments(parser: argparse.ArgumentParser) -> None:
        program.add_arguments(parser)
        parser.add_argument(
            "--fault",
            action="append",
            default=[],
            metavar="RULE",
            help="have something go wrong: 'error type=OUT nth=3' (docs/faults.md); as often as there are rules",
        )

    def open_device(options: argparse.Namespace) -> Device:
        device = program.open(options)
        if options.fault:
            from devproc.faults.faults import Faults  # which few processes ever need

            try:
                for text in options.fault:
                    Faults.of(device).add(text, started=True)
            except BaseException:
                device.close()
                raise
        return device

    return replace(program, add_arguments=add_arguments, open=open_device)
