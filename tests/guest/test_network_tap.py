"""A tap in a network namespace of the test's own: two pairs of queues, segments of 64 KiB; and no privilege."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import network, server
from tests.guest.expect import Guest

pytestmark = [pytest.mark.boot, pytest.mark.timeout(600)]

HOST, GUEST = "10.8.0.1", "10.8.0.2"


@pytest.fixture
def inside() -> Iterator[list[str]]:
    """Return the words before a command that runs in a namespace with a tap; its end is the namespace's."""
    with network.namespace(
        "ip tuntap add tap0 mode tap multi_queue vnet_hdr", f"ip addr add {HOST}/24 dev tap0", "ip link set tap0 up"
    ) as words:
        yield words


def test_debian_on_a_tap(debian: Path, tmp_path: Path, inside: list[str]) -> None:
    path = tmp_path / "vm.toml"
    text = network.with_card("tap", debian, 'backend = "tap"', 'interface = "tap0"', "queues = 2", init=network.SHELL)
    path.write_text(text.replace("[boot]", "cpus = 2\n[boot]"))
    serve = [*inside, sys.executable, "-m", "tests.guest.server", HOST]
    host = subprocess.Popen(serve, stdout=subprocess.PIPE, text=True)
    try:
        with Guest([*inside, sys.executable, "-m", "orchestrator", "up", str(path)]) as guest:
            transfer(guest, host)
            assert network.end(guest) == 0
    finally:
        host.kill()
        host.communicate()


def transfer(guest: Guest, host: subprocess.Popen[str]) -> None:
    """Have the guest get and send, and look at what its card agreed on."""
    assert host.stdout is not None
    port = int(host.stdout.readline())
    network.shell(guest)
    card = network.set_address(guest, f"{GUEST}/24")
    assert network.ping(guest, HOST) == 3
    get = f"exec 3<>/dev/tcp/{HOST}/{port}; echo give >&3; sha256sum <&3"
    assert network.digest_of(guest.run(get, 120)) == server.hashlib.sha256(server.content()).hexdigest()
    guest.run(f"head -c {server.SIZE} /dev/urandom > /tmp/up")
    sent = network.digest_of(guest.run("sha256sum < /tmp/up"))
    guest.run(f"cat /tmp/up > /dev/tcp/{HOST}/{port}", 120)
    assert host.stdout.readline().strip() == sent
    assert guest.run(f"ls -d /sys/class/net/{card}/queues/rx-*").split()[-1].endswith("rx-1")
    frames = re.search(r"\d+", guest.run(f"cat /sys/class/net/{card}/statistics/tx_packets"))
    assert frames is not None
    said = subprocess.run(
        [sys.executable, "-m", "orchestrator", "inspect", "tap", "net0"], capture_output=True, text=True, check=True
    ).stdout
    sent_frames = re.search(r"frames_out\D+(\d+)", said)
    assert sent_frames is not None, said
    assert int(sent_frames[1]) * 1500 < server.SIZE, "segments left in one piece"


def test_without_the_privilege_validate_says_what_grants_it(tmp_path: Path) -> None:
    drop = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"] if os.geteuid() == 0 else []
    card = '[[device]]\nid = "net0"\ntype = "virtio-net"\nbackend = "tap"\ninterface = "busvmtap"\n'
    (tmp_path / "vm.toml").write_text(card)
    command = [*drop, sys.executable, "-m", "orchestrator", "validate", str(tmp_path / "vm.toml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 4
    assert "vm.toml:5: net0.interface: " in done.stderr
    assert "sudo ip tuntap add dev busvmtap mode tap" in done.stderr
    assert done.stderr.count("\n") <= 2
