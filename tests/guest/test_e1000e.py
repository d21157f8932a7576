"""Linux's own driver for Intel's card, against a peer that this test plays at the other end of the wire."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from tests.guest import network
from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(400)]

OURS, PEER = "10.9.0.1", "10.9.0.2"
PEER_MAC = bytes.fromhex("020000000001")
MAC, OTHER_MAC = "52:54:00:aa:bb:cc", "52:54:00:aa:bb:dd"


class Echo:
    """A host that answers ARP, pings and UDP; it comes back when the card's process has ended."""

    def __init__(self, path: Path) -> None:
        self._path, self._ended = path, False
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self.frames = 0
        self.longest = 0
        self._thread.start()

    def close(self) -> None:
        """Hang up."""
        self._ended = True
        self._thread.join(10)

    def _serve(self) -> None:
        while not self._ended:
            with contextlib.suppress(OSError, ValueError), socket.socket(socket.AF_UNIX) as wire:
                wire.settimeout(0.2)
                wire.connect(str(self._path))
                self._talk(wire)
            time.sleep(0.02)

    def _talk(self, wire: socket.socket) -> None:
        data = b""
        while not self._ended:
            with contextlib.suppress(TimeoutError):
                more = wire.recv(1 << 16)
                if not more:
                    return
                data += more
            while len(data) >= 4 and len(data) >= 4 + (size := int.from_bytes(data[:4], "big")):
                answer = self._answer(data[4 : 4 + size])
                data = data[4 + size :]
                if answer:
                    wire.settimeout(5)
                    wire.sendall(struct.pack(">I", len(answer)) + answer)
                    wire.settimeout(0.2)

    def _answer(self, frame: bytes) -> bytes | None:
        self.frames += 1
        self.longest = max(self.longest, len(frame))
        back = frame[6:12] + PEER_MAC
        if frame[12:14] == b"\x08\x06" and frame[38:42] == socket.inet_aton(PEER) and frame[21] == 1:
            return back + frame[12:20] + b"\0\2" + PEER_MAC + frame[38:42] + frame[22:32]
        if frame[12:14] != b"\x08\0" or frame[30:34] != socket.inet_aton(PEER):
            return None
        ip = frame[12:26] + frame[30:34] + frame[26:30]
        if int.from_bytes(frame[20:22], "big") & 0x1FFF:
            return back + ip + frame[34:]  # not the first fragment
        if frame[23] == 1 and frame[34] == 8:  # ICMP: the sum grows by what the type shrinks by
            total = int.from_bytes(frame[36:38], "big") + 0x800
            return back + ip + b"\0\0" + (total + (total >> 16) & 0xFFFF).to_bytes(2, "big") + frame[38:]
        if frame[23] == 17:  # to swap addresses and ports changes no sum
            return back + ip + frame[36:38] + frame[34:36] + frame[38:]
        return None


def card_process() -> dict[str, Any]:
    """Return what ``ps`` says of the card's process."""
    command = [sys.executable, "-m", "orchestrator", "ps", "intel", "--json"]
    shown = json.loads(subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout)
    return next(found for found in shown["processes"] if found["id"] == "net0")


def set_link(guest: Guest, up: bool) -> None:
    """Plug the cable in or out, and return when the guest has noticed."""
    subprocess.run(
        ["busctl", f"--address={bus_address()}", "call", "org.busvm.device.net0", "/org/busvm/device/net0",
         "org.busvm.Net1", "SetLink", "b", str(up).lower()],
        check=True, timeout=30,
    )  # fmt: skip
    guest.run(f"until [ $(cat /sys/class/net/e*/carrier) = {int(up)} ]; do sleep 0.1; done", 30)


def bus_address() -> str:
    """Return the address of the VM's bus."""
    command = [sys.executable, "-m", "orchestrator", "env", "intel"]
    shown = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout
    found = re.search(r"'(.*)'", shown)
    assert found is not None
    return found[1]


def kill() -> None:
    """End the card's process, and return when its successor serves."""
    before = card_process()
    os.kill(before["pid"], signal.SIGKILL)
    deadline = time.monotonic() + 30
    while (now := card_process())["epoch"] == before["epoch"] or now["state"] != "attached":
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_linux_drives_the_card(debian: Path, tmp_path: Path) -> None:
    text = network.with_card(
        "intel",
        debian,
        'backend = "stream"',
        'address = "unix:wire"',
        "server = true",
        f'mac = "{MAC}"',
        init=network.SHELL,
    )
    path = tmp_path / "vm.toml"
    path.write_text(text.replace('type = "virtio-net"', 'type = "e1000e"'))
    with Guest([sys.executable, "-m", "orchestrator", "up", str(path)]) as guest:
        echo = Echo(tmp_path / "wire")
        network.shell(guest, "e1000e")
        card = network.set_address(guest, f"{OURS}/24")
        assert guest.run(f"cat /sys/class/net/{card}/address").strip() == MAC
        guest.run(f"until [ $(cat /sys/class/net/{card}/carrier) = 1 ]; do sleep 0.1; done", 30)
        assert guest.run(f"cat /sys/class/net/{card}/speed").strip() == "1000"
        assert len(re.findall(f"MSIX.*{card}", guest.run("cat /proc/interrupts"))) == 3
        assert network.ping(guest, PEER) == 3
        assert "1 received" in guest.run(f"ping -c 1 -W 5 -s 8000 {PEER}")  # several frames each way
        assert echo.longest == 1514

        set_link(guest, False)
        assert network.ping(guest, PEER, 1) == 0
        set_link(guest, True)
        assert network.ping(guest, PEER) == 3

        guest.run(f"ping -q -i 0.05 -c 200 -W 5 {PEER} > /tmp/pings & sleep 1")
        for _ in range(3):
            kill()
            time.sleep(1)
        found = re.search(r"(\d+) received", guest.run("wait; cat /tmp/pings", 60))
        assert found is not None
        assert int(found[1]) > 100  # a process that is not there answers nothing
        assert network.ping(guest, PEER) == 3
        guest.run("ip link set dev " + card + " mtu 9000")  # the driver resets the card and has other descriptors
        guest.run(f"until [ $(cat /sys/class/net/{card}/carrier) = 1 ]; do sleep 0.1; done", 30)
        assert "1 received" in guest.run(f"ping -c 1 -W 5 -s 8000 {PEER}")
        assert echo.longest == 8042
        assert "Hang" not in guest.run("dmesg | grep e1000e")
        echo.close()
        assert network.end(guest) == 0


CARDS = f"""
[[device]]
id = "net0"
type = "e1000e"
backend = "stream"
address = "unix:wire"
server = true
mac = "{MAC}"
[[device]]
id = "net1"
type = "virtio-net"
backend = "stream"
address = "unix:wire"
mac = "{OTHER_MAC}"
"""
LISTEN = (
    "use IO::Socket::INET; $s = IO::Socket::INET->new(LocalPort => 5555, Listen => 1, ReuseAddr => 1) or die; "
    "$c = $s->accept; binmode $c; print while read($c, $_, 65536)"
)
SETUP = """
ip netns add n{0}; ip link set {1} netns n{0}; ip -n n{0} addr add 10.9.0.{0}/24 dev {1}; ip -n n{0} link set {1} up
"""


def test_transfers_survive_the_process(debian: Path, tmp_path: Path) -> None:
    """The card's segments, cut by its process, and a virtio-net at the other end, both cards in one guest."""
    path = tmp_path / "vm.toml"
    path.write_text(on_a_snapshot("intel").format(image=debian).replace(" rw", f" rw {network.SHELL}") + CARDS)
    with Guest([sys.executable, "-m", "orchestrator", "up", str(path)]) as guest:
        network.shell(guest, "e1000e", "virtio_net")
        names = [guest.run(f"grep -l {mac} /sys/class/net/*/address | cut -d/ -f5").strip() for mac in (MAC, OTHER_MAC)]
        for number, name in enumerate(names, 1):
            guest.run(SETUP.format(number, name).strip())
        guest.run("until ip netns exec n1 ping -c 1 -W 1 10.9.0.2 > /dev/null; do :; done", 30)
        wanted = guest.run("head -c 24M /dev/urandom > /tmp/blob; sha256sum < /tmp/blob", 60)
        guest.run(f"echo '{LISTEN}' > /tmp/listen.pl")
        for source, sink in ((1, 2), (2, 1)):
            guest.run(f"ip netns exec n{sink} perl /tmp/listen.pl > /tmp/got & sleep 1")
            send = f"cat /tmp/blob > /dev/tcp/10.9.0.{sink}/5555"
            guest.type(f"ip netns exec n{source} bash -c '{send}'; wait; sha256sum < /tmp/got; echo end-of-''command")
            time.sleep(0.7)
            kill()
            assert network.digest_of(guest.wait_for("end-of-command\n", 120)) == network.digest_of(wanted)
        assert network.end(guest) == 0
