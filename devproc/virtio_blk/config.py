"""The configuration of a block device, and the options that it comes from."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from devproc.virtio_blk.spec import SECTOR, BlkFeature
from devproc.virtio_spec import Feature
from protocol.errors import ConfigError
from protocol.sizes import parse_size

CACHES = ("writeback", "writethrough", "none")
DISCARDS = ("unmap", "ignore")
ON_ERROR = ("report", "pause")
BLOCK_SIZES = (512, 1024, 2048, 4096)


@dataclass(frozen=True)
class Config:
    """The command line of a block device."""

    image: Path
    readonly: bool = False
    queues: int = 1
    queue_size: int = 256
    threads: int = 4
    serial: str = ""
    cache: str = "writeback"
    discard: str = "unmap"
    snapshot: bool = False
    block_size: int = SECTOR
    on_error: str = "report"
    iops: int = 0
    bytes_per_second: int = 0
    in_order: bool = False
    handover: bool = False
    without: int = 0
    """Features that are not offered."""


def add_policies(parser: argparse.ArgumentParser) -> None:
    """Add the options for how the disk behaves, as opposed to what it is."""
    parser.add_argument(
        "--cache", choices=CACHES, default="writeback", help="writethrough: no flush needed; none: O_DIRECT"
    )
    parser.add_argument("--direct", action="store_const", const="none", dest="cache", help="the same as --cache none")
    parser.add_argument("--discard", choices=DISCARDS, default="unmap", help="ignore: do not offer it to the guest")
    parser.add_argument("--snapshot", action="store_true", help="keep changes to this run, the image stays untouched")
    parser.add_argument(
        "--handover",
        action="store_true",
        help="vhost-user: lock the image only while a ring runs, so that a guest can migrate to another process",
    )
    parser.add_argument(
        "--block-size", type=int, choices=BLOCK_SIZES, default=SECTOR, metavar="N", help="512 (default) to 4096"
    )
    parser.add_argument(
        "--on-error", choices=ON_ERROR, default="report", help="pause: a full host pauses the machine (default: report)"
    )
    parser.add_argument("--iops", type=int, default=0, metavar="N", help="requests a second (default: any number)")
    parser.add_argument(
        "--in-order", action="store_true", help="offer VIRTIO_F_IN_ORDER: requests come back in the order they came"
    )
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="FEATURE",
        help="do not offer it, such as RING_PACKED: for a device that is to be swapped; as often as there are features",
    )
    parser.add_argument("--bytes-per-second", default="0", metavar="SIZE", help="such as 10M (default: any number)")


def withheld(names: Sequence[str]) -> int:
    """Return the bits of features by the names of the specification.

    Raises:
        ConfigError: there is no such feature, or no driver would do without.
    """
    known = {name: int(value) for kind in (BlkFeature, Feature) for name, value in kind.__members__.items()}
    del known[Feature.VERSION_1.name or ""]
    bits = 0
    for name in names:
        if name not in known:
            raise ConfigError(f"--without {name}: no such feature", hint=", ".join(sorted(known)))
        bits |= known[name]
    return bits


def policies(options: argparse.Namespace) -> dict[str, Any]:
    """Return what ``add_policies`` has brought, as fields of ``Config``.

    Raises:
        ConfigError: values are out of range, or exclude each other.
    """
    rate = parse_size(options.bytes_per_second)
    if options.iops < 0:
        raise ConfigError(f"--iops {options.iops}: 1 or more, or 0 for any number")
    if options.snapshot and options.readonly:
        raise ConfigError("--snapshot with --readonly", hint="--snapshot alone leaves the image untouched")
    if options.snapshot and options.handover:
        raise ConfigError("--snapshot with --handover", hint="changes that end with a process cannot be handed over")
    return {
        "cache": options.cache,
        "discard": options.discard,
        "snapshot": options.snapshot,
        "block_size": options.block_size,
        "on_error": options.on_error,
        "iops": options.iops,
        "bytes_per_second": rate,
        "in_order": options.in_order,
        "handover": options.handover,
        "without": withheld(options.without),
    }
