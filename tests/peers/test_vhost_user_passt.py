"""passt in its vhost-user mode as the network of our Debian: it serves the queues, our process only the registers."""

from __future__ import annotations

import hashlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import build, on_a_snapshot
from tests.guest.expect import Guest
from tests.guest.server import SIZE, content
from tests.peers import back_ends

pytestmark = [pytest.mark.boot, pytest.mark.peer, pytest.mark.timeout(600)]


def test_debian_on_passts_queues(tmp_path: Path) -> None:
    passt = back_ends.newer("bin/passt", "passt", ("passt",))  # 12's has no such mode
    words = [*passt, "--vhost-user", "--foreground", "--socket", "{socket}"]
    card = f"""\
[[device]]
id = "net0"
type = "vhost-user"
device = "net"
mac = "52:54:00:01:02:03"
command = {json.dumps(words)}
"""
    path = tmp_path / "vm.toml"
    path.write_text(on_a_snapshot("passtqueues").format(image=build("debian")) + card)
    out = [
        "ip link add up0 type veth peer name far0", "ip addr add 192.0.2.2/24 dev up0", "ip link set far0 up",
        "ip link set up0 up", "ip route add default via 192.0.2.1",
    ]  # fmt: skip
    with network.namespace(*out) as inside:
        serve = subprocess.Popen(
            [*inside, sys.executable, "-m", "tests.guest.server", "127.0.0.1"], stdout=subprocess.PIPE, text=True
        )
        try:
            with Guest([*inside, sys.executable, "-m", "orchestrator", "up", str(path)]) as guest:
                transfer(guest, serve)
                guest.type("poweroff -f")
                assert guest.status(60) == 0
        finally:
            serve.kill()
            serve.communicate()


def transfer(guest: Guest, serve: subprocess.Popen[str]) -> None:
    """Have the guest get its address, then get and send."""
    assert serve.stdout is not None
    port = int(serve.stdout.readline())
    guest.login(network.PASSWORD)
    said = guest.run("for i in $(seq 100); do ip -c=never -4 route | grep ^default && break; sleep 0.2; done", 60)
    gateway = re.search(r"default via (\S+)", said)
    assert gateway is not None, guest.run("ip addr; ip route")
    get = f"exec 3<>/dev/tcp/{gateway[1]}/{port}; echo give >&3; sha256sum <&3"
    assert network.digest_of(guest.run(get, 120)) == hashlib.sha256(content()).hexdigest()
    guest.run(f"head -c {SIZE} /dev/urandom > /tmp/up")
    sent = network.digest_of(guest.run("sha256sum < /tmp/up"))
    guest.run(f"cat /tmp/up > /dev/tcp/{gateway[1]}/{port}", 120)
    assert serve.stdout.readline().strip() == sent
