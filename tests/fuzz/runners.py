"""What runs an image: an engine of ours, QEMU's ``virt``, or Spike. Each returns the contexts, one after the other."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from cpu_proc.hart import INTERPRETER, TRANSLATOR
from tests.fuzz.image import CONTEXTS, SIZE, UART, elf
from tests.peers import newer_qemu, spike
from tests.unit.cpu_proc.harness import MMIO, RAM, Bench

QEMU = "qemu-system-riscv64"
PEERS = ("qemu", "spike")
ENGINES = (INTERPRETER, TRANSLATOR)
MEMORY = 16 << 20
_ISA = "rv64gc_zba_zbb_zbc_zbs_zbkb_zicond_zihintpause_zicsr_zifencei_zfh_zfa_zicclsm"
_TIMEOUT_S = 600


def missing(peer: str) -> str:
    """Return what keeps a comparison from running, or an empty string."""
    if peer == "spike":
        return "" if spike.command() else "Spike is missing: docs/testing.md says how to build it"
    return "" if shutil.which(QEMU) else f"{QEMU} is missing: apt-get install qemu-system-misc"


def on_peer(peer: str, image: bytes, count: int, group: str, folder: Path) -> bytes:
    """Return the contexts of ``count`` programs as the peer leaves them."""
    return _on_spike(image, count, folder) if peer == "spike" else _on_qemu(image, group, folder)


def _on_qemu(image: bytes, group: str, folder: Path) -> bytes:
    source, output = folder / "image.bin", folder / "uart.bin"
    source.write_bytes(image)
    newer = group.startswith("z")  # the release's lacks some, and its ctzw counts beyond 32
    needed = {"zfa": "zfh=true,zfa=true"}.get(group, f"{group}=true")
    cpu = f"rv64,{needed}" if newer else "rv64"
    command = [
        *(newer_qemu.command() if newer else [QEMU]), "-M", "virt", "-cpu", cpu, "-m", "64M", "-bios", "none",
        "-display", "none", "-monitor", "none", "-net", "none", "-serial", f"file:{output}",
        "-device", f"loader,file={source},addr={RAM:#x},force-raw=on", "-device", f"loader,addr={RAM:#x},cpu-num=0",
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL)
    return output.read_bytes()


def _on_spike(image: bytes, count: int, folder: Path) -> bytes:
    source, output = folder / "image.elf", folder / "signature"
    source.write_bytes(elf(image, count))
    command = [
        *spike.command(), f"--isa={_ISA}", "-m0x80000000:0x4000000", "--pmpregions=0",
        f"+signature={output}", "+signature-granularity=8", str(source),
    ]  # fmt: skip
    subprocess.run(command, check=True, timeout=_TIMEOUT_S, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    data = b"".join(bytes.fromhex(line)[::-1] for line in output.read_text().split())
    return b"".join(data[4096 * index : 4096 * index + SIZE] for index in range(count))


def on_hart(bench: Bench, image: bytes, count: int) -> bytes:
    """Return the contexts as our interpreter leaves them."""
    bench.reset()
    bench.bytes(RAM, image)
    reason = bench.step(1 << 40)
    if reason != MMIO or bench["MMIO_ADDRESS"] != UART:
        raise RuntimeError(
            f"ended by {reason} at pc={bench['PC']:#x}, mcause={bench['MCAUSE']}, mepc={bench['MEPC']:#x}"
        )
    pages = (CONTEXTS - RAM + 4096 * index for index in range(count))
    return b"".join(bytes(bench.ram.u8[page : page + SIZE]) for page in pages)
