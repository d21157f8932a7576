"""Keys of the machine itself: what it has, and what it boots."""

from __future__ import annotations

from orchestrator.keys.key import Key, Kind

SCHEMA_VERSION = 1
MIB = 1 << 20
MEMORY_LEAST = 32 * MIB
MEMORY_STEP = 2 * MIB
CPUS_MOST = 64

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
    Key(
        "vm",
        "prealloc",
        Kind.FLAG,
        "Have the host reserve all RAM at the start, or fail; otherwise it is found as the guest touches it, and where "
        "there is none then the VM ends.",
        default=False,
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
        "bus-monitor",
        Kind.FLAG,
        "Let this user's tools, and with them every process of the VM, see what is said on its bus: `busctl monitor`.",
        default=False,
    ),
    Key(
        "vm",
        "fork-devices",
        Kind.FLAG,
        "Start the processes of devices as forks of one that has loaded what they need, in milliseconds; they share "
        "its memory and its layout of addresses (docs/security.md).",
        default=True,
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
)
