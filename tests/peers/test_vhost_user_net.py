"""QEMU 7.2 and newer as the front-end of our network card's process, whose death Debian's network survives."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.guest import network
from tests.guest.conftest import build
from tests.guest.expect import Guest
from tests.guest.server import serving
from tests.peers.vhost_user_qemu import QEMUS, BackEnd, Qemu

pytestmark = [pytest.mark.boot, pytest.mark.peer, pytest.mark.timeout(600)]


def command(qemu: Qemu, image: Path, back_end: BackEnd, queues: int = 1) -> list[str]:
    """Return the command of a Debian on QEMU whose card is ours."""
    vectors = f",mq=on,vectors={2 * queues + 2}" if queues > 1 else ""
    return [
        *qemu.words, "-M", "virt,memory-backend=m", "-m", "512M", "-smp", "2", "-display", "none", "-monitor", "none",
        "-serial", "stdio", "-no-reboot", "-snapshot", "-object", "memory-backend-memfd,id=m,size=512M,share=on",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", f"console=ttyS0 root=/dev/vda rw {network.SHELL}",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=d",
        "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
        "-chardev", f"socket,id=c,path={back_end.socket},{qemu.reconnect}",
        "-netdev", f"vhost-user,id=n,chardev=c,queues={queues}",
        "-device", f"virtio-net-pci,disable-legacy=on,netdev=n{vectors}",
    ]  # fmt: skip


@pytest.fixture
def back_end(tmp_path: Path) -> Iterator[BackEnd]:
    made = BackEnd("devproc.virtio_net", tmp_path, "--backend", "user", "--queues", "2")
    yield made
    made.close()


@pytest.mark.parametrize("which", QEMUS)
def test_debian_on_qemu_has_our_network(back_end: BackEnd, which: str) -> None:
    debian = build("debian")
    data = hashlib.shake_128(b"down").digest(8 * network.MIB)
    queues = 2 if which == "new" else 1
    with Guest(command(QEMUS[which](), debian, back_end, queues)) as guest, serving(data) as (port, heard):
        network.shell(guest)
        network.set_address(guest, "10.0.2.15/24")
        get = f"exec 3<>/dev/tcp/10.0.2.2/{port}; echo give >&3; sha256sum <&3"
        assert network.digest_of(guest.run(get, 120)) == hashlib.sha256(data).hexdigest()
        guest.run(f"head -c {8 * network.MIB} /dev/urandom > /tmp/up")
        sent = network.digest_of(guest.run("sha256sum < /tmp/up"))
        guest.run(f"cat /tmp/up > /dev/tcp/10.0.2.2/{port}", 120)
        assert hashlib.sha256(heard.get(timeout=60)).hexdigest() == sent
        back_end.kill()
        back_end.start()
        deadline = time.monotonic() + 60
        while network.ping(guest, "10.0.2.2", 1) == 0:
            assert time.monotonic() < deadline, back_end.log.read_text()
        assert network.digest_of(guest.run(get, 120)) == hashlib.sha256(data).hexdigest()
        network.end(guest)
