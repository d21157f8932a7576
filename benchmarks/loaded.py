"""A guest under load: fio writes and verifies on disks of its own, iperf3 sends and receives over taps, without end.

What dies under it are processes of our machine; what must not happen is told by the guest: an error of fio, of iperf3,
or of its kernel. Only root can make the taps.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import threading
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from benchmarks.machines import orchestrator_command
from benchmarks.network_machines import IPERF3_PORT, TAPS, Namespace, Ours, Wire
from benchmarks.workloads.emulators import Guest
from benchmarks.workloads.image import prepare

_PROGRAMS = ("iperf3", "ip", "unshare", "nsenter")
_MIB = 64
_FIO = (
    "fio --name=job --filename={disk} --ioengine=libaio --direct=1 --size={mib}M --rw=randwrite --bsrange=512-16k "
    "--blockalign=512 --iodepth=16 --verify=crc32c --verify_backlog=64 --verify_fatal=1 --time_based --runtime=30{more}"
)
# a server that has not heard the end of the last transfer yet resets who comes; no stream is connected then
_TRANSFER = (
    "{{ iperf3 -c {peer} -p {port} -t 10 {more} >/tmp/{name}.one 2>&1 || "
    "{{ ! grep -q 'connected to' /tmp/{name}.one && sleep 2 && "
    "iperf3 -c {peer} -p {port} -t 10 {more} >/tmp/{name}.one 2>&1; }} || {{ cat /tmp/{name}.one; false; }}; }}"
)
_AGAIN = (
    "(while [ ! -e /tmp/enough ]; do {work} || {{ touch /tmp/{name}.failed; break; }}; echo round; done "
    ">/tmp/{name}.log 2>&1; touch /tmp/{name}.done) >/dev/null 2>&1 &"
)
_SEEN = (
    "for each in {names}; do echo $each rounds $(grep -c round /tmp/$each.log); "
    "[ ! -e /tmp/$each.failed ] || {{ echo $each failed; tail -n 5 /tmp/$each.log; }}; done; "
    "dmesg -c >/tmp/dmesg; echo errors $(grep -ciE '{bad}' /tmp/dmesg); grep -iE -A2 '{bad}' /tmp/dmesg; "
    "awk '/^MemAvailable/ {{ print \"available\", $2 }}' /proc/meminfo"
)
_BAD = "I/O error|blk_update|NETDEV WATCHDOG|needs reset|soft lockup|hung task|blocked for more|rcu.*stall|Oops|BUG:"
_SILENT = (
    "ss -tnoie dst {peer}; grep -i virtio /proc/interrupts; tail -n 3 /tmp/{name}.one; "
    "ping -c 4 -W 3 {peer} || echo no answer"
)
_END = "touch /tmp/enough; for each in {names}; do while [ ! -e /tmp/$each.done ]; do sleep 0.2; done; done"
_END_S, _PATIENCE_S = 180.0, 90.0


@dataclass(frozen=True)
class Disk:
    """A disk that fio writes; ``rate`` limits it, as fio's option takes it."""

    name: str
    spare: bool = False
    rate: str = ""


@dataclass(frozen=True)
class Card:
    """A card that iperf3 sends and receives over; ``rate`` limits it, in bits a second with iperf3's suffixes."""

    name: str
    tap: str
    spare: bool = False
    rate: str = ""


@dataclass(frozen=True)
class Seen:
    """What the guest has told; the names are those of the devices."""

    rounds: dict[str, int]
    failed: list[str]
    kernel_errors: int
    available_mib: float
    said: str


class Machine(Ours):
    """Our machine with those disks and cards; ``background`` leaves it to no command's life."""

    def __init__(self, name: str, folder: Path, inside: list[str], disks: list[Disk], cards: list[Card], *,
                 background: bool, built: Path | None) -> None:  # fmt: skip
        self.image = prepare(folder, built)
        self._disks, self._background = disks, background
        lines = {each.name: f'backend = "tap"\ninterface = "{each.tap}"{_spare(each)}' for each in cards}
        super().__init__(name, self.image, folder, inside, lines)
        self.up: list[str] = []

    def command(self, cmdline: str, disk: Path) -> list[str]:
        """Return the foreground ``orchestrator up``; in the background, that and the console."""
        words = super().command(cmdline, disk)
        with (self._place / "vm.toml").open("a") as file:
            for each in self._disks:
                image = self._place / f"{each.name}.img"
                with image.open("wb") as data:
                    data.truncate(_MIB << 20)
                file.write(f'[[device]]\nid = "{each.name}"\ntype = "virtio-blk"\nimage = "{image}"{_spare(each)}\n')
        if not self._background:
            return words
        self.up = [*words, "-d"]
        console = shlex.join(orchestrator_command("console", self.vm))
        return ["sh", "-c", f'"$@" && exec {console}', "up", *self.up]


class Load:
    """The machine and its guest, which works from ``start`` to ``end``."""

    def __init__(self, name: str, folder: Path, disks: list[Disk], cards: list[Card], *, seconds: int,
                 background: bool = False, built: Path | None = None) -> None:  # fmt: skip
        """Boot it, from an image that is ``built`` already or the benchmarks' own; the taps last for ``seconds``."""
        self._cards = cards
        self._disks = disks
        self._stack = ExitStack()
        self._asking = threading.Lock()
        with ExitStack() as stack:
            namespace = Namespace(seconds)
            stack.callback(namespace.close)
            namespace.prepare(servers=len(cards))
            self.machine = Machine(name, folder, namespace.inside, disks, cards, background=background, built=built)
            if background:
                stack.callback(self._down)
            self.guest = Guest(self.machine, self.machine.image, folder)
            stack.callback(self.guest.close)
            for number, card in enumerate(cards):
                Wire(self.guest, number, f"{TAPS[card.tap]}.2", f"{TAPS[card.tap]}.1")
            self._stack = stack.pop_all()

    def start(self) -> None:
        """Have the guest begin."""
        self._run("dmesg -c >/dev/null")
        for letter, disk in zip("bcdefg", self._disks, strict=False):
            more = f" --rate={disk.rate}" if disk.rate else ""
            self._begin(disk.name, _FIO.format(disk=f"/dev/vd{letter}", mib=_MIB, more=more))
        for number, card in enumerate(self._cards):
            rate = f"-b {card.rate}" if card.rate else ""
            words = {"name": card.name, "peer": f"{TAPS[card.tap]}.1", "port": IPERF3_PORT + number}
            self._begin(card.name, " && ".join(_TRANSFER.format(more=f"{rate} {way}", **words) for way in ("", "-R")))

    def _begin(self, name: str, work: str) -> None:
        self._run(_AGAIN.format(work=work, name=name))

    def _run(self, line: str, timeout_s: float = _PATIENCE_S) -> str:
        with self._asking:
            return self.guest.run(line, timeout_s).output

    @property
    def _names(self) -> str:
        return " ".join([each.name for each in self._disks] + [each.name for each in self._cards])

    def look(self) -> Seen:
        """Return what the guest tells now; its kernel's messages are told once.

        Raises:
            GuestError: it does not answer.
        """
        said = self._run(_SEEN.format(names=self._names, bad=_BAD))
        rounds = {name: int(count) for name, count in re.findall(r"^(\w+) rounds (\d+)", said, re.MULTILINE)}
        failed = re.findall(r"^(\w+) failed", said, re.MULTILINE)
        errors = re.search(r"^errors (\d+)", said, re.MULTILINE)
        available = re.search(r"^available (\d+)", said, re.MULTILINE)
        return Seen(
            rounds, failed, int(errors[1]) if errors else 1, int(available[1]) / 1024 if available else 0.0, said
        )

    def end(self) -> Seen:
        """Have it come to an end, and return what it tells; raises GuestError as ``look`` does."""
        self._run(_END.format(names=self._names), _END_S)
        return self.look()

    def why_silent(self, name: str) -> str:
        """Return what the guest says of a card that carries nothing: its connections, then whether it answers a ping.

        Raises:
            GuestError: the guest does not answer.
        """
        card = next(card for card in self._cards if card.name == name)
        return self._run(_SILENT.format(peer=f"{TAPS[card.tap]}.1", name=name))

    def close(self) -> None:
        """End everything."""
        self._stack.close()

    def _down(self) -> None:
        subprocess.run(orchestrator_command("down", "-t", "0", self.machine.vm), capture_output=True, check=False)


def _spare(each: Disk | Card) -> str:
    return "\nspare = true" if each.spare else ""


def missing() -> str:
    """Return why this host cannot do that, or nothing."""
    programs = [name for name in _PROGRAMS if not shutil.which(name)]
    if programs:
        return f"there is no {programs[0]}"
    return "only root can make taps" if os.geteuid() else ""
