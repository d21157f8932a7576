"""What tests of networks have their guests do: addresses, pings, and transfers whose content is compared."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.guest.conftest import on_a_snapshot
from tests.guest.expect import Guest

PASSWORD = "busvm"
MIB = 1 << 20
SHELL = "quiet init=/bin/bash"
"""A kernel command line with which Debian is a shell after a few seconds, for tests that set its network by hand."""
# A listener made of what every Debian has: perl's sockets.
LISTEN = (
    "perl -MIO::Socket::INET -e '$s=IO::Socket::INET->new(LocalPort=>5555,Listen=>1,ReuseAddr=>1) or die; "
    "$c=$s->accept; binmode $c; print while read($c,$_,65536)' | sha256sum"
)


@contextmanager
def namespace(*lines: str) -> Iterator[list[str]]:
    """Make a network of the test's own, where ``lines`` are run; yield what a command that runs there begins with."""
    holder = subprocess.Popen(["unshare", "--net", "sh", "-c", "echo; exec sleep 900"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    try:
        holder.stdout.readline()
        words = ["nsenter", "--target", str(holder.pid), "--net"]
        for line in ("ip link set lo up", *lines):
            subprocess.run([*words, *line.split()], check=True)
        yield words
    finally:
        holder.kill()
        holder.wait()
        holder.stdout.close()


def with_card(name: str, image: Path, *lines: str, init: str = "") -> str:
    """Return a vm.toml of a Debian with one card, ``lines`` being its keys."""
    card = '[[device]]\nid = "net0"\ntype = "virtio-net"\n'
    text = on_a_snapshot(name).format(image=image) + card + "".join(line + "\n" for line in lines)
    return text.replace("root=/dev/vda rw", f"root=/dev/vda rw {init}") if init else text


def qemu_guest(image: Path, *options: str, init: str = "") -> list[str]:
    """Return the command of a Debian on the system's QEMU, whose root forgets."""
    return [
        "qemu-system-riscv64", "-M", "virt", "-m", "512M", "-nographic", "-no-reboot", "-snapshot",
        "-kernel", str(image / "vmlinuz"), "-initrd", str(image / "initrd.img"),
        "-append", f"console=ttyS0 root=/dev/vda rw {init}",
        "-drive", f"file={image / 'root.ext4'},format=raw,if=none,id=d",
        "-device", "virtio-blk-pci,drive=d,disable-legacy=on",
        *options,
    ]  # fmt: skip


def shell(guest: Guest, *modules: str) -> None:
    """Take the shell that ``SHELL`` makes of a Debian."""
    guest.wait_for("# ", 180)
    guest.type("export TERM=dumb HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin")
    guest.type("bind 'set enable-bracketed-paste off'; stty -echo; PS1=; echo re''ady")
    guest.wait_for("ready\n", 60)
    for name, folder in (("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")):
        guest.run(f"mountpoint -q {folder} || mount -t {name} {name} {folder}")
    guest.run("ln -sfn /proc/self/fd /dev/fd")
    guest.run("dmesg -n 1")  # the kernel says when a link comes up, between what the shell says
    guest.run(f"ip link set lo up; modprobe -a {' '.join(modules or ('virtio_net',))}; udevadm settle")


def end(guest: Guest) -> int:
    """Power off; return the status of the machine's process."""
    guest.type("poweroff -ff")
    return guest.status(60)


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


def transfer(source: Guest, sink: Guest, address: str, size: int, timeout_s: float = 180) -> None:
    """Send random bytes from one guest to another, whose address is given; what arrives has the same digest."""
    source.run(f"head -c {size} /dev/urandom > /tmp/data", timeout_s)
    sent = digest_of(source.run("sha256sum < /tmp/data", timeout_s))
    sink.type(f"{LISTEN}; echo end-of-''transfer")
    send = f"cat /tmp/data > /dev/tcp/{address}/5555"
    source.run(f"until (exec {send}) 2> /dev/null; do sleep 0.2; done", timeout_s)  # the listener may not be there yet
    received = digest_of(sink.wait_for("end-of-transfer\n", timeout_s))
    assert received == sent
