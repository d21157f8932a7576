"""``image``: build guest images (``orchestrator.image``)."""

from __future__ import annotations

import argparse


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    from orchestrator.image.command import add_arguments

    parser = verbs.add_parser("image", help="build guest images", description="Build guest images.")
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    from orchestrator.image.command import run as build

    return build(options)
