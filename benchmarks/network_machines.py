"""The machines that networks are measured with, all in a network namespace of the benchmark's own."""

from __future__ import annotations

import os
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machines import disk_options, qemu_command
from benchmarks.samples import ran_s
from benchmarks.workloads.emulators import Busvm, Guest
from benchmarks.workloads.image import Image

SECONDS = 3
IPERF3_PORT = 5201  # of the first server
TAPS = {"tap": "10.8.1", "qtap": "10.8.2", "vtap": "10.8.3"}  # of our machine, of QEMU's device, of ours under QEMU
_FIND = (
    "modprobe virtio_net; for each in /sys/class/net/*; do "
    "grep -qi {mac} $each/address && echo card ${{each##*/}}; done; true"
)
_READ = (
    'seen() { set -- $1 "$(readlink -f /sys/class/net/$1/device)"; '
    "cat /sys/class/net/$1/statistics/rx_packets /sys/class/net/$1/statistics/tx_packets; "
    "grep -w \"${2##*/}\\(-.*\\)\\?\" /proc/interrupts | awk '{ n += $2 } END { print n }'; }; "
)
_RATE = re.compile(r"([\d.]+) Mbits/sec +receiver")


class Namespace:
    """A network namespace with taps and an iperf3 that serves; what runs ``inside`` sees nothing of the host's."""

    def __init__(self, seconds: int = 900) -> None:
        """Make it; it ends after ``seconds`` by itself."""
        self._holder = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", f"echo; exec sleep {seconds}"], stdout=subprocess.PIPE
        )
        assert self._holder.stdout is not None
        self._holder.stdout.readline()
        self.inside = ["nsenter", "--target", str(self._holder.pid), "--net"]
        self._servers: list[subprocess.Popen[bytes]] = []

    def prepare(self, servers: int = 1) -> None:
        """Make the taps, and serve: so many transfers at a time, each at a port of its own."""
        lines = ["ip link set lo up"]
        for name, network in TAPS.items():
            lines.append(f"ip tuntap add {name} mode tap vnet_hdr")
            lines += [f"ip addr add {network}.1/24 dev {name}", f"ip link set {name} up"]
        for line in lines:
            subprocess.run([*self.inside, *line.split()], check=True)
        for port in range(IPERF3_PORT, IPERF3_PORT + servers):
            command = [*self.inside, "iperf3", "-s", "-p", str(port)]
            self._servers.append(subprocess.Popen(command, stdout=subprocess.DEVNULL))

    def close(self) -> None:
        """End it, and with it its taps."""
        for process in (*self._servers, self._holder):
            process.kill()
            process.wait()
        assert self._holder.stdout is not None
        self._holder.stdout.close()


class Ours(Busvm):
    """Our machine with cards: name → the lines of vm.toml that say what it is connected to."""

    def __init__(self, name: str, image: Image, folder: Path, inside: list[str], cards: dict[str, str]) -> None:
        self._place = folder / name
        self._place.mkdir()
        super().__init__(image, self._place)
        self.vm, self.name = f"{name}{os.getpid()}", f"network {name}"
        self._inside, self._cards = inside, cards

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return the foreground ``orchestrator up``."""
        words = super().command(cmdline, disk)
        with (self._place / "vm.toml").open("a") as file:
            for number, (name, lines) in enumerate(self._cards.items()):
                file.write(f'[[device]]\nid = "{name}"\ntype = "virtio-net"\nmac = "{_mac(number)}"\n{lines}\n')
            if "hub" in self._cards and "/" not in self._cards["hub"]:
                file.write('[[hub]]\nid = "lan"\n')
        return [*self._inside, *words]

    def of_devices(self) -> dict[str, int]:
        """Return the processes of the machine, which runs, by name."""
        return self.processes(0)


class Theirs:
    """QEMU with cards: name → options, of which the one of the network is called as the card is."""

    hart = "qemu"

    def __init__(self, name: str, image: Image, inside: list[str], cards: dict[str, str]) -> None:
        self.name = f"network {name}"
        self._image, self._inside, self._cards = image, inside, cards

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return QEMU's command line."""
        options = []
        for number, (name, option) in enumerate(self._cards.items()):
            card = f"virtio-net-pci,disable-legacy=on,netdev={name},mac={_mac(number)}"
            options += [*option.split(), "-device", card]
        return self._inside + qemu_command(
            "-kernel", str(self._image.kernel), "-initrd", str(self._image.initrd), "-append", cmdline,
            *disk_options(disk), "-object", "memory-backend-memfd,id=m,size=512M,share=on", *options,
            machine="virt,memory-backend=m",
        )  # fmt: skip

    def processes(self, pid: int) -> dict[str, int]:
        """Return the one process."""
        return {"qemu": pid}


def _mac(number: int) -> str:
    return f"52:54:00:00:00:{number:02x}"


@dataclass(frozen=True)
class Seen:
    """What one transfer showed, each per second; ``device`` is the part of the time in which that process ran."""

    rate: float
    frames: float
    interrupts: float
    device: float

    @property
    def each_us(self) -> float:
        """Microseconds of the device process per frame."""
        return self.device / self.frames * 1e6 if self.frames else 0.0


class Wire:
    """A card of a guest, and who is at the other end; ``device`` is the process of ours that serves it."""

    def __init__(self, guest: Guest, number: int, address: str, peer: str, device: int = 0) -> None:
        self._guest, self._peer, self._device = guest, peer, device
        said = guest.run(_FIND.format(mac=_mac(number)), 30).output
        found = re.search(r"^card (\S+)", said, re.MULTILINE)
        if found is None:
            raise LookupError(f"{guest.emulator.name} has no card {number}")
        self._card = found[1]
        guest.run(f"ip addr add {address}/24 dev {self._card}; ip link set {self._card} up; sleep 0.2", 30)

    def transfer(self, *, receive: bool) -> Seen:
        """Have the guest send for ``SECONDS``, or receive."""
        before = ran_s(self._device)
        run = f"iperf3 -c {self._peer} -t {SECONDS} -f m {'-R' if receive else ''}"
        said = self._guest.run(f"{_READ} seen {self._card}; {run}; seen {self._card}", 30).output
        device = (ran_s(self._device) - before) / SECONDS
        rate = _RATE.search(said)
        if rate is None:
            raise LookupError(f"iperf3 said: {said[-300:]}")
        numbers = [int(line) for line in said.splitlines() if line.strip().isdigit()]
        received, sent, interrupts = (numbers[3 + index] - numbers[index] for index in range(3))
        return Seen(float(rate[1]), (received + sent) / SECONDS, interrupts / SECONDS, device)
