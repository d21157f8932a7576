"""What tests of networks have their guests do: addresses, pings, and transfers whose content is compared."""

from __future__ import annotations

import re
import time
from pathlib import Path

from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

PASSWORD = "busvm"
MIB = 1 << 20
# A listener made of what every Debian has: perl's sockets.
_LISTEN = (
    "perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>5555,Listen=>1,ReuseAddr=>1) or die; "
    "$c=$s->accept; binmode $c; print while read($c,$_,65536)' | sha256sum"
)


def with_card(name: str, image: Path, *lines: str) -> str:
    """Return a vm.toml of a Debian with one card, ``lines`` being its keys."""
    card = '[[device]]\nid = "net0"\ntype = "virtio-net"\n'
    return on_a_snapshot(name).format(image=image) + card + "".join(line + "\n" for line in lines)


def qemu_guest(image: Path, *options: str) -> list[str]:
    """Return the command of a Debian on the system's QEMU, whose root forgets."""
    return [
        "qemu-system-riscv64", "-M", "virt", "-m", "512M", "-nographic", "-no-reboot", "-snapshot",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", "console=ttyS0 root=/dev/vda rw",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=d",
        "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
        *options,
    ]  # fmt: skip


def card_of(guest: Guest) -> str:
    """Return the name of the guest's first Ethernet card."""
    return guest.run("ls /sys/class/net | grep -v lo | head -1").strip()


def set_address(guest: Guest, address: str) -> str:
    """Give the card an address by hand; return its name."""
    guest.run("systemctl stop systemd-networkd.socket systemd-networkd 2>/dev/null")
    card = card_of(guest)
    guest.run(f"ip addr flush dev {card}; ip addr add {address} dev {card}; ip link set {card} up; sleep 0.5")
    return card


def ping(guest: Guest, address: str, count: int = 3) -> int:
    """Return how many of ``count`` pings were answered."""
    said = guest.run(f"ping -c {count} -i 0.2 -W 5 {address}", 60)
    found = re.search(r"(\d+) received", said)
    return int(found[1]) if found else 0


def digest_of(said: str) -> str:
    """Return the SHA-256 in what was printed."""
    found = re.search(r"\b[0-9a-f]{64}\b", said)
    assert found is not None, said
    return found[0]


def transfer(source: Guest, sink: Guest, address: str, size: int, timeout_s: float = 180) -> float:
    """Send random bytes from one guest to another, whose address is given; return the seconds that it took.

    Fails unless what arrives has the digest of what was sent.
    """
    source.run(f"head -c {size} /dev/urandom > /tmp/data", timeout_s)
    sent = digest_of(source.run("sha256sum < /tmp/data", timeout_s))
    sink.type(f"{_LISTEN}; echo end-of-''transfer")
    source.run("sleep 1")
    started = time.monotonic()
    source.run(f"cat /tmp/data > /dev/tcp/{address}/5555", timeout_s)
    received = digest_of(sink.wait_for("end-of-transfer\n", timeout_s))
    assert received == sent
    return time.monotonic() - started
