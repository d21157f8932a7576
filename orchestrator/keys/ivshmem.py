"""Keys of memory that machines share: its servers, and the devices by which a guest has it."""

from __future__ import annotations

from orchestrator.keys.key import Key, Kind
from orchestrator.keys.types import IVSHMEM, PEERS, PLAIN

VECTORS_MOST = 64
SIZE_LEAST = 4096

_MEMORY = "a name (in `/dev/shm`), or a path if it has a `/`"

SERVICE_KEYS = (
    Key("service", "id", Kind.TEXT, "Name of the service, which devices name, other VMs' as `VM/ID`.", required=True),
    Key(
        "service",
        "type",
        Kind.TEXT,
        "`ivshmem-server`: memory that machines and programs share, and their doorbells; docs/ivshmem.md.",
        required=True,
        choices=("ivshmem-server",),
    ),
    Key("service", "size", Kind.SIZE, "Bytes of the memory, a power of two from 4K on.", required=True),
    Key("service", "vectors", Kind.COUNT, "Doorbells of each peer.", default=1, least=1, most=VECTORS_MOST),
    Key(
        "service",
        "memory",
        Kind.TEXT,
        f"Where the memory is kept: {_MEMORY}. Without it: sealed, and gone with its last peer.",
        default="",
    ),
    Key(
        "service",
        "socket",
        Kind.PATH,
        "Where QEMU's peers connect, and at the same path with `.busvm` behind it programs and devices of ours. "
        "Without it: in the VM's folder.",
    ),
)

KEYS = (
    Key(
        "device",
        "server",
        Kind.TEXT,
        "Which server: the id of a `[[service]]`, one of another VM as `VM/ID`, or the path of a socket, with a `/`.",
        required=True,
        types=PEERS,
    ),
    Key("device", "server", Kind.TEXT, "The same; excludes `memory`.", default="", types=PLAIN),
    Key(
        "device",
        "memory",
        Kind.TEXT,
        f"The memory, without a server: {_MEMORY}.",
        default="",
        types=PLAIN,
        option="--memory",
    ),
    Key(
        "device",
        "size",
        Kind.SIZE,
        "Bytes of the memory, a power of two from 4K on; with `memory` it is needed, else it is the server's.",
        types=IVSHMEM,
        option="--size",
    ),
    Key(
        "device",
        "vectors",
        Kind.COUNT,
        "Interrupt vectors of the device; without it the server's.",
        least=1,
        most=VECTORS_MOST,
        types=PEERS,
        option="--vectors",
    ),
    Key(
        "device",
        "readonly",
        Kind.FLAG,
        "The guest only reads the memory.",
        default=False,
        types=IVSHMEM,
        option="--readonly",
    ),
)
