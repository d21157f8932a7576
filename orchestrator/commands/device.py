"""``device``: one device's program by its type, as a machine would start it, or alone."""

from __future__ import annotations

import argparse
import os
import sys
from typing import NoReturn

from orchestrator import schema
from orchestrator.keys.types import DEVICE_TYPES
from orchestrator.plan import device_program, environment
from protocol.errors import ConfigError


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "device",
        help="run a device's program: alone at a prompt, for QEMU, or in a machine",
        description="Run the program of a device type in the place of this command. TYPE --help shows its options: "
        "--poke for a prompt without a machine, --vhost-user for QEMU, --bus to join a machine, --describe for what it "
        "declares.",
        usage="orchestrator device TYPE [OPTION…]",
        epilog=f"types: {_types()}",
    )
    parser.add_argument("type", metavar="TYPE", help="a type as in vm.toml")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="OPTION", help="options of the type")
    parser.set_defaults(run=run)


def _types() -> str:
    return f"{', '.join(DEVICE_TYPES)}, python:MODULE, python:MODULE:CLASS"


def run(options: argparse.Namespace) -> NoReturn:
    """Become the device's program."""
    kind = options.type
    if kind not in DEVICE_TYPES and not kind.startswith(schema.PYTHON_PREFIX):
        raise ConfigError(f"no device type {kind!r}", hint=f"types: {_types()}")
    command = device_program(kind)
    sys.stdout.flush()
    os.execve(command[0], [*command, *options.arguments], os.environ | environment())
