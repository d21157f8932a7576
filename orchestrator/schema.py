"""The keys of vm.toml: one table, from which validation, the documentation and the JSON schema are derived.

A key that a device process understands names the option it becomes, so that the plan needs no list of its own.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from protocol.sizes import format_size

SCHEMA_VERSION = 1
# slot 0 of PCI bus 0 is the host bridge; the ports that pcie devices are behind take slots from FIRST_PORT on
SLOTS = {"pci": range(1, 32), "pcie": range(16), "mmio": range(8), "platform": range(32)}
FIRST_PORT = 16

MIB = 1 << 20
MEMORY_LEAST = 32 * MIB
MEMORY_STEP = 2 * MIB
CPUS_MOST = 64

RESERVED_IDS = frozenset({"bus", "cpu", "console", "machine", "orchestrator"})  # names of other processes' logs
PYTHON_PREFIX = "python:"


class Kind(StrEnum):
    """What a value must be."""

    TEXT = "text"
    SIZE = "size"
    COUNT = "count"
    NUMBER = "number"
    FLAG = "true or false"
    FILE = "file"
    PATH = "path"
    WORDS = "list of texts"


@dataclass(frozen=True)
class DeviceType:
    """A type of device that comes with busvm: the module that runs it."""

    module: str
    doc: str


DEVICE_TYPES = {
    "virtio-blk": DeviceType("devproc.virtio_blk", "A disk over a raw image or a block device."),
    "virtio-console": DeviceType("devproc.virtio_console", "A terminal, and named ports to programs on the host."),
    "virtio-net": DeviceType("devproc.virtio_net", "A network card."),
    "virtio-rng": DeviceType("devproc.virtio_rng", "Random numbers for the guest's kernel."),
    "e1000e": DeviceType("devproc.e1000e", "Intel's network card 82574L, for guests without virtio."),
    "vhost-user": DeviceType("devproc.vhost_user", "A device that somebody else's vhost-user back-end serves."),
}


@dataclass(frozen=True)
class Key:
    """One key; ``table`` is empty for the top level, ``types`` for a key of every device."""

    table: str
    name: str
    kind: Kind
    doc: str
    default: Any = None
    required: bool = False
    choices: tuple[str, ...] | tuple[int, ...] = ()
    least: int = 0
    most: int | None = None
    types: tuple[str, ...] = ()
    backends: tuple[str, ...] = ()
    """Of a network card's key: the back-ends that it is for; it is required of those alone."""
    option: str = ""
    """The option of the device process that the key becomes."""

    @property
    def path(self) -> str:
        """The key as people write it: ``vm.memory``."""
        return f"{self.table}.{self.name}" if self.table else self.name


_BLK = ("virtio-blk",)
NETWORK_CARDS = ("e1000e", "virtio-net")
_NET = NETWORK_CARDS
_VIRTIO_NET = ("virtio-net",)
_USER = ("user",)
_BOTH = ("user", "passt")
_RNG = ("virtio-rng",)
_CONSOLE = ("virtio-console",)
_VHOST_USER = ("vhost-user",)

KEYS = (
    Key("", "schema", Kind.COUNT, "Version of this format.", default=SCHEMA_VERSION, least=1, most=SCHEMA_VERSION),
    Key("vm", "name", Kind.TEXT, "Name of the VM. Without it: the file's name, or its folder's for `vm.toml`."),
    Key(
        "vm",
        "memory",
        Kind.SIZE,
        "Size of RAM: bytes, or a number with K, M, G or T; a multiple of 2M.",
        default=256 * MIB,
        least=MEMORY_LEAST,
    ),
    Key("vm", "cpus", Kind.COUNT, "Number of harts.", default=1, least=1, most=CPUS_MOST),
    Key(
        "vm",
        "clock",
        Kind.TEXT,
        "What guest time follows: `real` the host's clock, `icount` the instructions of the one hart.",
        default="real",
        choices=("real", "icount"),
    ),
    Key(
        "vm",
        "engine",
        Kind.TEXT,
        "What executes: `interp`, `translate` (to the host's own instructions; x86-64), `auto` what the host has.",
        default="auto",
        choices=("auto", "interp", "translate"),
    ),
    Key(
        "vm",
        "perf_map",
        Kind.FLAG,
        "Name translated code for `perf report` at the end, in `/tmp/perf-PID.map`, which stays.",
        default=False,
    ),
    Key(
        "vm",
        "interrupts",
        Kind.TEXT,
        "Interrupt controllers: `aia` is APLIC and IMSIC, with MSI-X; `plic` is the plain PLIC, with INTx.",
        default="aia",
        choices=("aia", "plic"),
    ),
    Key(
        "vm",
        "hotplug-ports",
        Kind.COUNT,
        'Empty PCIe hot-plug ports for `orchestrator attach`, beside the one of each device with `bus = "pcie"`; 16 in '
        "all.",
        default=0,
        most=16,
    ),
    Key(
        "boot",
        "kernel",
        Kind.FILE,
        "Linux image (raw, EFI stub, gzip) or ELF; behind firmware also plain code. Without kernel, firmware and loads "
        "the embedded guest boots.",
    ),
    Key("boot", "firmware", Kind.FILE, "M-mode firmware: OpenSBI, U-Boot, ELF or raw. Without it SBI is built in."),
    Key("boot", "dtb", Kind.FILE, "Device tree instead of the machine's own; command line and disk are put into it."),
    Key("boot", "flash0", Kind.FILE, "32 MiB behind the first bank of flash, at 0x20000000: code that is booted."),
    Key("boot", "flash1", Kind.FILE, "32 MiB behind the second bank of flash, at 0x22000000."),
    Key("boot", "initrd", Kind.FILE, "Initial RAM disk."),
    Key("boot", "cmdline", Kind.TEXT, "Kernel command line.", default=""),
    Key("load", "file", Kind.FILE, "File to put into memory: ELF at its own addresses, anything else at `address`."),
    Key("load", "address", Kind.NUMBER, "Physical address."),
    Key("load", "value", Kind.NUMBER, "Number to store at `address`, little-endian, instead of a file."),
    Key("load", "size", Kind.COUNT, "Bytes of `value`.", least=1, most=8),
    Key("load", "force-raw", Kind.FLAG, "Take an ELF file as plain bytes.", default=False),
    Key("load", "cpu", Kind.COUNT, "This hart begins at the file's entry or at `address`, in M mode."),
    Key("load", "kernel", Kind.FILE, "Kernel of a hypervisor's guest: plain bytes, named in `/chosen` of the tree."),
    Key("load", "initrd", Kind.FILE, "RAM disk of a hypervisor's guest, likewise."),
    Key("load", "bootargs", Kind.TEXT, "Command line of that guest's kernel.", default=""),
    Key("fw-cfg", "name", Kind.TEXT, "Name of a fw_cfg file, such as `opt/org.example/key`.", required=True),
    Key("fw-cfg", "file", Kind.FILE, "File that is its content."),
    Key("fw-cfg", "string", Kind.TEXT, "Text that is its content."),
    Key("debug", "symbols", Kind.FILE, "ELF file with the guest's symbols, for `orchestrator gdb`."),
    Key("hub", "id", Kind.TEXT, "Name of the hub: cards join it by `hub`, other VMs' as `VM/ID`.", required=True),
    Key(
        "hub",
        "listen",
        Kind.WORDS,
        "Addresses, `unix:PATH` or `HOST:PORT`, where QEMU's `-netdev stream` and its like join.",
        default=(),
    ),
    Key("hub", "connect", Kind.WORDS, "Such addresses that it connects to.", default=()),
    Key("device", "id", Kind.TEXT, "Name on the bus, in logs and in `ps`: letters, digits, `_`.", required=True),
    Key(
        "device",
        "type",
        Kind.TEXT,
        "`virtio-blk`, `virtio-console`, `virtio-net`, `virtio-rng`, `vhost-user`, `e1000e`; `python:MODULE:CLASS` for "
        "a device of your own from its class, in the file's folder; `python:MODULE` if it has a program of its own, "
        "run as `python -m MODULE`.",
        required=True,
    ),
    Key(
        "device",
        "bus",
        Kind.TEXT,
        "What the device is connected to: `pcie` is a PCIe hot-plug port of its own, which it can be taken out of; "
        "`mmio` is a slot of virtio-mmio, of which there are 8, for virtio devices; "
        "`platform` is memory and a wire, of which there are 32, for plain devices that the device tree names.",
        default="pci",
        choices=("pci", "pcie", "mmio", "platform"),
    ),
    Key(
        "device",
        "plugged",
        Kind.FLAG,
        'Whether it is there from the start; with `bus = "pcie"` it may be plugged in later: `orchestrator attach`.',
        default=True,
    ),
    Key(
        "device",
        "start",
        Kind.TEXT,
        "`attach`: `up` prints the command and waits until you have run it, perhaps in a debugger.",
        default="auto",
        choices=("auto", "attach"),
    ),
    Key(
        "device",
        "restart",
        Kind.TEXT,
        "What happens when the process ends: `on-failure` leaves one alone that ended with status 0.",
        default="on-failure",
        choices=("on-failure", "always", "no"),
    ),
    Key("device", "args", Kind.WORDS, "More arguments for the device process.", default=()),
    Key("device", "image", Kind.FILE, "Raw image or block device.", required=True, types=_BLK, option="--image"),
    Key("device", "readonly", Kind.FLAG, "Refuse writes.", default=False, types=_BLK, option="--readonly"),
    Key(
        "device",
        "device",
        Kind.TEXT,
        "What the back-end is: `blk`, `fs`, `net` and the other virtio devices by name, or any by number.",
        required=True,
        types=_VHOST_USER,
        option="--device",
    ),
    Key(
        "device",
        "socket",
        Kind.PATH,
        "Where the back-end listens; of a console, where we do.",
        types=_VHOST_USER + _CONSOLE,
        option="--socket",
    ),
    Key(
        "device",
        "size",
        Kind.TEXT,
        "Columns and rows of the terminal.",
        default="80x25",
        types=_CONSOLE,
        option="--size",
    ),
    Key(
        "device",
        "ports",
        Kind.WORDS,
        "Named ports, `NAME=PATH` each: /dev/virtio-ports/NAME in the guest, and where its client connects.",
        default=(),
        types=_CONSOLE,
        option="--port",
    ),
    Key(
        "device",
        "command",
        Kind.WORDS,
        "The back-end, started with the VM and again when it ends, as `ID.backend`; `{socket}` is where it is to "
        "listen, `{folder}` the file's folder.",
        types=_VHOST_USER,
    ),
    Key(
        "device",
        "wait",
        Kind.COUNT,
        "Seconds to wait for the back-end at start; with `command` 10.",
        default=0,
        most=3600,
        types=_VHOST_USER,
        option="--wait",
    ),
    Key("device", "tag", Kind.TEXT, "fs: what the guest mounts.", default="", types=_VHOST_USER, option="--tag"),
    Key(
        "device",
        "backend",
        Kind.TEXT,
        "What the card is connected to; docs/network.md compares them.",
        default="none",
        choices=("none", "user", "passt", "tap", "stream", "dgram", "hub"),
        types=_NET,
        option="--backend",
    ),
    Key(
        "device",
        "mac",
        Kind.TEXT,
        "Address of the card. Without it: made from the names of VM and device; of a back-end, its own.",
        default="",
        types=_NET + _VHOST_USER,
        option="--mac",
    ),
    Key(
        "device",
        "mtu",
        Kind.COUNT,
        "Largest packet, which the guest is told. Without it: what suits the network.",
        least=68,
        most=65535,
        types=_VIRTIO_NET,
        option="--mtu",
    ),
    Key(
        "device",
        "pcap",
        Kind.PATH,
        "File for all frames, which tshark reads, in nanoseconds of guest time.",
        types=_NET,
        option="--pcap",
    ),
    Key(
        "device",
        "standby",
        Kind.FLAG,
        "Stand by for a card of the same address (Linux: net_failover).",
        default=False,
        types=_VIRTIO_NET,
        option="--standby",
    ),
    Key(
        "device",
        "forward",
        Kind.WORDS,
        "Ports that lead to the guest: `tcp:[ADDRESS]:PORT:[GUEST:]PORT`, `udp:…`, `unix:PATH:PORT`. Without an "
        "address 127.0.0.1.",
        default=(),
        types=_NET,
        backends=_BOTH,
        option="--forward",
    ),
    Key(
        "device",
        "guest-forward",
        Kind.WORDS,
        "Ports of the guest's network that lead out: `tcp:ADDRESS:PORT:TARGET`, a target being `HOST:PORT`, "
        "`unix:PATH` or `cmd:COMMAND`.",
        default=(),
        types=_NET,
        backends=_USER,
        option="--guest-forward",
    ),
    Key(
        "device",
        "restrict",
        Kind.FLAG,
        "Nothing but forwards leaves the guest's network.",
        default=False,
        types=_NET,
        backends=_USER,
        option="--restrict",
    ),
    Key(
        "device",
        "network",
        Kind.TEXT,
        "Addresses of the guest's network; the host is .2, the name server .3, the guest .15.",
        default="10.0.2.0/24",
        types=_NET,
        backends=_USER,
        option="--network",
    ),
    Key(
        "device",
        "ipv6",
        Kind.FLAG,
        "IPv6 too.",
        default=True,
        types=_NET,
        backends=_BOTH,
        option="--ipv6",
    ),
    Key(
        "device",
        "ipv6-network",
        Kind.TEXT,
        "Addresses of the guest's IPv6 network.",
        default="fec0::/64",
        types=_NET,
        backends=_USER,
        option="--ipv6-network",
    ),
    Key(
        "device",
        "hostname",
        Kind.TEXT,
        "What DHCP tells the guest its name is.",
        default="",
        types=_NET,
        backends=_USER,
        option="--hostname",
    ),
    Key(
        "device",
        "domain",
        Kind.TEXT,
        "What DHCP tells the guest its domain is.",
        default="",
        types=_NET,
        backends=_USER,
        option="--domain",
    ),
    Key(
        "device",
        "domain-search",
        Kind.WORDS,
        "Domains that the guest looks names up in.",
        default=(),
        types=_NET,
        backends=_BOTH,
        option="--domain-search",
    ),
    Key(
        "device",
        "tftp",
        Kind.PATH,
        "Folder that the guest can read by TFTP.",
        types=_NET,
        backends=_USER,
        option="--tftp",
    ),
    Key(
        "device",
        "tftp-server-name",
        Kind.TEXT,
        "What DHCP tells the guest that the TFTP server is called.",
        default="",
        types=_NET,
        backends=_USER,
        option="--tftp-server-name",
    ),
    Key(
        "device",
        "bootfile",
        Kind.TEXT,
        "File that DHCP tells the guest to boot.",
        default="",
        types=_NET,
        backends=_USER,
        option="--bootfile",
    ),
    Key(
        "device",
        "host-loopback",
        Kind.FLAG,
        "The gateway's address leads to the host's 127.0.0.1.",
        default=True,
        types=_NET,
        backends=_BOTH,
        option="--host-loopback",
    ),
    Key(
        "device",
        "interface",
        Kind.TEXT,
        "tap: the interface, there or to be made; passt: the host's whose addresses the guest gets.",
        types=_NET,
        backends=("tap", "passt"),
        option="--interface",
    ),
    Key(
        "device",
        "address",
        Kind.TEXT,
        "stream: where to connect to, `unix:PATH` or `HOST:PORT`.",
        required=True,
        types=_NET,
        backends=("stream",),
        option="--address",
    ),
    Key(
        "device",
        "server",
        Kind.FLAG,
        "stream: listen there instead.",
        default=False,
        types=_NET,
        backends=("stream",),
        option="--server",
    ),
    Key(
        "device",
        "reconnect",
        Kind.COUNT,
        "stream: seconds until it tries again to connect.",
        default=1,
        least=1,
        most=3600,
        types=_NET,
        backends=("stream",),
        option="--reconnect",
    ),
    Key(
        "device",
        "hub",
        Kind.TEXT,
        "hub: which one, by its id; one of another VM as `VM/ID`.",
        required=True,
        types=_NET,
        backends=("hub",),
    ),
    Key(
        "device",
        "local",
        Kind.TEXT,
        "dgram: where frames arrive; of a multicast group the interface's address.",
        types=_NET,
        backends=("dgram",),
        option="--local",
    ),
    Key(
        "device",
        "remote",
        Kind.TEXT,
        "dgram: where frames go, perhaps a multicast group.",
        required=True,
        types=_NET,
        backends=("dgram",),
        option="--remote",
    ),
    Key(
        "device",
        "queues",
        Kind.COUNT,
        "Request queues; pairs of queues of a network card.",
        default=1,
        least=1,
        most=64,
        types=_BLK + _VIRTIO_NET + _VHOST_USER,
        option="--queues",
    ),
    Key("device", "serial", Kind.TEXT, "Serial number, up to 20 bytes.", default="", types=_BLK, option="--serial"),
    Key(
        "device",
        "cache",
        Kind.TEXT,
        "`writeback`: the guest's flushes make writes durable; `writethrough`: each write is; `none`: as `writeback`, "
        "past the host's page cache (O_DIRECT).",
        default="writeback",
        choices=("writeback", "writethrough", "none"),
        types=_BLK,
        option="--cache",
    ),
    Key(
        "device",
        "discard",
        Kind.TEXT,
        "`unmap`: what the guest discards goes back to the host; `ignore`: discard is not offered, zeros keep space.",
        default="unmap",
        choices=("unmap", "ignore"),
        types=_BLK,
        option="--discard",
    ),
    Key(
        "device",
        "snapshot",
        Kind.FLAG,
        "Keep what is written in a temporary file until the process ends; the image is only read.",
        default=False,
        types=_BLK,
        option="--snapshot",
    ),
    Key(
        "device",
        "block-size",
        Kind.COUNT,
        "Bytes of a block, of which the image is a multiple.",
        default=512,
        choices=(512, 1024, 2048, 4096),
        types=_BLK,
        option="--block-size",
    ),
    Key(
        "device",
        "on-error",
        Kind.TEXT,
        "When the host has no space left: `report` an error to the guest, or `pause` the VM; `resume` tries again.",
        default="report",
        choices=("report", "pause"),
        types=_BLK,
        option="--on-error",
    ),
    Key("device", "iops", Kind.COUNT, "Most requests a second.", least=1, types=_BLK, option="--iops"),
    Key(
        "device",
        "bytes-per-second",
        Kind.SIZE,
        "Most bytes a second, of a disk read and written.",
        least=1,
        types=_BLK + _RNG,
        option="--bytes-per-second",
    ),
    Key(
        "device",
        "source",
        Kind.FILE,
        "File or character device with random bytes, instead of the host's kernel.",
        types=_RNG,
        option="--source",
    ),
)

SINGLE_TABLES = ("vm", "boot", "debug")
LISTS = ("load", "fw-cfg", "hub", "device")  # written [[load]], any number of times
TABLES = (*SINGLE_TABLES, *LISTS)


def keys_of(table: str) -> dict[str, Key]:
    """Return the keys of one table by name."""
    return {key.name: key for key in KEYS if key.table == table}


def default_text(key: Key) -> str:
    """Return the default as it would be written, or nothing."""
    if key.required:
        return "required"
    if key.default in (None, "", ()):
        return ""
    if key.kind is Kind.SIZE:
        return f'"{format_size(key.default)}"'
    if key.kind is Kind.FLAG:
        return "true" if key.default else "false"
    return _written(key.default)


def _written(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown() -> str:
    """Return the table of keys for docs/vm-toml.md."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key in KEYS:
        value = ", ".join(f"`{_written(choice)}`" for choice in key.choices) or str(key.kind)
        default = default_text(key)
        shown = default if default in ("", "required") else f"`{default}`"
        only = f" Only for {', '.join(f'`{name}`' for name in key.types)}." if key.types else ""
        rows.append(f"| `{key.path}` | {value} | {shown} | {key.doc}{only} |")
    return "\n".join(rows) + "\n"


_JSON_TYPES: dict[Kind, dict[str, Any]] = {
    Kind.TEXT: {"type": "string"},
    Kind.SIZE: {"type": ["integer", "string"], "pattern": "^[0-9]+[KMGT]?$"},
    Kind.COUNT: {"type": "integer"},
    Kind.NUMBER: {"type": "integer", "minimum": 0},
    Kind.FLAG: {"type": "boolean"},
    Kind.FILE: {"type": "string"},
    Kind.PATH: {"type": "string"},
    Kind.WORDS: {"type": "array", "items": {"type": "string"}},
}


def _json_key(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {**_JSON_TYPES[key.kind], "description": key.doc}
    if key.choices:
        described["enum"] = list(key.choices)
    if key.kind is Kind.COUNT:
        described["minimum"] = key.least
        if key.most is not None:
            described["maximum"] = key.most
    if key.default not in (None, ()):
        described["default"] = format_size(key.default) if key.kind is Kind.SIZE else key.default
    return described


def _json_table(table: str) -> dict[str, Any]:
    keys = keys_of(table)
    required = [key.name for key in keys.values() if key.required and not key.types]
    found: dict[str, Any] = {
        "type": "object",
        "properties": {name: _json_key(key) for name, key in keys.items()},
        "additionalProperties": False,
    }
    return found | ({"required": required} if required else {})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of vm.toml, for editors."""
    top = _json_table("")
    for table in TABLES:
        described = _json_table(table)
        top["properties"][table] = {"type": "array", "items": described} if table in LISTS else described
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vm.toml"} | top
