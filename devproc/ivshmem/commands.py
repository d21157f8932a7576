"""``python -m devproc.ivshmem.client SOCKET peers|ring|wait|dump``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from devproc.command_line import Parser
from devproc.ivshmem.client import Client, connect
from protocol.errors import BusvmError, ConfigError
from protocol.limits import raise_limit
from protocol.sizes import parse_size

TIMED_OUT = 1


def _parser() -> Parser:
    parser = Parser(prog="python -m devproc.ivshmem.client", description="A peer of an ivshmem server.")
    parser.add_argument("socket", help="the server's socket")
    parser.add_argument("--name", default="", help="have the id of this name")
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("peers", help="show who is there")
    ring = verbs.add_parser("ring", help="ring a peer")
    ring.add_argument("peer", type=int)
    ring.add_argument("vector", type=int, nargs="?", default=0)
    wait = verbs.add_parser("wait", help="wait to be rung; status 1: not in time")
    wait.add_argument("vector", type=int, nargs="?", default=0)
    wait.add_argument("--timeout", type=float, metavar="SECONDS")
    dump = verbs.add_parser("dump", help="write memory to standard output")
    dump.add_argument("offset", nargs="?", default="0", help="a size such as 4K; default: 0")
    dump.add_argument("length", nargs="?", default="", help="default: to the end")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Do one thing as a peer; return the exit status."""
    parser = _parser()
    options = parser.parse_args(argv)
    raise_limit()
    try:
        readonly = options.verb in ("peers", "dump")
        with connect(options.socket, name=options.name, readonly=readonly) as client:
            return _do(client, options)
    except BusvmError as error:
        return parser.failed(error)
    except KeyboardInterrupt:
        return 130


def _do(client: Client, options: argparse.Namespace) -> int:
    if options.verb == "peers":
        sys.stdout.write(f"{client.id} vectors={client.vectors} size={client.memory_size} (this one)\n")
        sys.stdout.writelines(f"{peer} vectors={vectors}\n" for peer, vectors in client.peers.items())
    elif options.verb == "ring":
        client.ring(options.peer, options.vector)
    elif options.verb == "wait":
        sys.stderr.write(f"peer {client.id}, vector {options.vector}\n")
        sys.stderr.flush()
        times = client.wait(options.vector, options.timeout)
        if not times:
            return TIMED_OUT
        sys.stdout.write(f"{times}\n")
    else:
        _dump(client, parse_size(options.offset), options.length)
    return 0


def _dump(client: Client, offset: int, length: str) -> None:
    size = client.memory_size
    end = offset + parse_size(length) if length else size
    if not offset <= end <= size:
        raise ConfigError(f"{offset:#x} to {end:#x} is not in the memory", hint=f"it has {size:#x} bytes")
    with client.memory[offset:end] as view:
        sys.stdout.buffer.write(view)
