"""Somebody else's back-ends on our machine: qemu-storage-daemon and virtiofsd of Debian 12 and of testing; and ours.

The virtiofsd of Debian 12 (in C) needs privileges; its successor (in Rust) does not, and is always tested.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from protocol.names import Runtime
from tests.guest import network
from tests.guest.conftest import debian, on_a_snapshot
from tests.guest.expect import Guest
from tests.peers.back_ends import DAEMON, blockdevs, export, make, newer, program, wait_for

__all__ = ["debian"]

pytestmark = pytest.mark.peer

# with Debian

VM = (
    on_a_snapshot("peers").replace("root=/dev/vda rw", f"root=/dev/vda rw {network.SHELL}")
    + """\
[[device]]
id = "raw"
type = "vhost-user"
device = "blk"
command = {raw}
[[device]]
id = "qcow"
type = "vhost-user"
device = "blk"
queues = 2
socket = "qcow.sock"
wait = 10
"""
)

FOLDER = """
[[device]]
id = "{tag}"
type = "vhost-user"
device = "fs"
tag = "{tag}"
command = {command}
"""

RNG = """
[[device]]
id = "rng"
type = "vhost-user"
device = "rng"
command = {command}
"""

EXAMPLE = Path(__file__).parents[2] / "examples" / "vhost_user_back_end.py"


def virtiofsds() -> dict[str, list[str]]:
    """Return the commands of those there are, by what the guest mounts."""
    found = {
        "rust": [*newer("libexec/virtiofsd"), "--socket-path={socket}", "--shared-dir={folder}/rust", "--sandbox=none"]
    }
    if os.getuid() == 0:
        path = program("/usr/lib/qemu/virtiofsd")
        found["c"] = [path, "--socket-path={socket}", "-o", "source={folder}/c", "-o", "sandbox=chroot"]
    return found


def processes() -> dict[str, dict[str, object]]:
    """Return what ``ps`` says about the machine."""
    command = [sys.executable, "-m", "orchestrator", "ps", "peers", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60)
    return {process["id"]: process for process in json.loads(done.stdout)["processes"]}


def kill(name: str) -> None:
    """Kill one of the machine's processes."""
    process = processes()[name]
    pid = int(str(process["pid"]))
    assert pid > 1, process
    os.kill(pid, signal.SIGKILL)


def copy(guest: Guest, disk: str, meanwhile: Callable[[], None]) -> None:
    """Have the guest write to a disk while something happens, and compare."""
    guest.run("dd if=/dev/urandom of=/tmp/blob bs=1M count=16 status=none")
    before = guest.run("sha256sum < /tmp/blob").split()[0]
    guest.type(f"dd if=/tmp/blob of=/dev/{disk} bs=16k oflag=direct status=none; echo written ''$?")
    meanwhile()
    guest.wait_for("written 0", 60)
    assert before in guest.run(f"dd if=/dev/{disk} bs=1M count=16 iflag=direct status=none | sha256sum")


def use(guest: Guest, tag: str, folder: Path, content: bytes) -> None:
    """Have the guest and the host work in a folder that they share."""
    guest.run(f"mount -t virtiofs {tag} /mnt && cd /mnt && mkdir sub && cp /tmp/blob sub/blob && mv sub/blob blob")
    assert guest.run("cat /mnt/greeting").strip() == "from the host"
    assert guest.run("stat -c %s /mnt/blob").strip() == str(16 << 20)
    assert (folder / "blob").read_bytes() == content
    (folder / "sub" / "more").write_text("later\n")
    assert guest.run("cat sub/more; rm sub/more; rmdir sub; ls").split() == ["later", "blob", "greeting"]
    assert sorted(path.name for path in folder.iterdir()) == ["blob", "greeting"]
    # its successor knows nothing of the mount; a new one works
    kill(f"{tag}.backend")
    log = Runtime("peers").logs / f"{tag}.log"
    wait_for(lambda: "the back-end is back" in log.read_text())
    assert "cannot" in guest.run("cd /; ls /mnt 2>&1")
    assert guest.run(f"umount /mnt; mount -t virtiofs {tag} /mnt && cat /mnt/greeting").strip() == "from the host"
    guest.run("umount /mnt")


@pytest.mark.boot
@pytest.mark.timeout(600)
def test_debian_with_disks_and_a_folder_of_others(debian: Path, tmp_path: Path) -> None:
    daemons = virtiofsds()
    for tag in daemons:
        (tmp_path / tag).mkdir()
        (tmp_path / tag / "greeting").write_text("from the host\n")
    make("raw", tmp_path / "raw.img", 64 << 20)
    make("qcow2", tmp_path / "disk.qcow2", 64 << 20)
    raw = [program(DAEMON), *blockdevs("raw", "raw.img"), *export("{socket}")]
    folders = "".join(FOLDER.format(tag=tag, command=json.dumps(command)) for tag, command in daemons.items())
    rng = RNG.format(command=json.dumps([sys.executable, str(EXAMPLE), "{socket}"]))
    (tmp_path / "vm.toml").write_text(VM.format(image=debian, raw=json.dumps(raw)) + folders + rng)
    mine = [program(DAEMON), *blockdevs("qcow2", "disk.qcow2"), *export("qcow.sock", 2)]
    daemon = subprocess.Popen(mine, cwd=tmp_path, stdin=subprocess.DEVNULL)
    try:
        with Guest([sys.executable, "-m", "orchestrator", "up", str(tmp_path / "vm.toml")]) as guest:
            network.shell(guest, "virtio_blk")
            # disks; the guest does not notice that the process which has the registers dies
            copy(guest, "vdc", lambda: kill("qcow"))
            copy(guest, "vdb", lambda: kill("raw"))
            assert processes()["raw"]["epoch"] == processes()["qcow"]["epoch"] == 2
            kill("raw.backend")  # idle, so that nothing is lost with it
            copy(guest, "vdb", lambda: None)
            assert "MSIX" in guest.run("grep virtio1-req /proc/interrupts")
            content = (tmp_path / "raw.img").read_bytes()[: 16 << 20]
            for tag in daemons:
                use(guest, tag, tmp_path / tag, content)
            # the example of the documentation
            assert "4096" in guest.run("modprobe virtio-rng; dd if=/dev/hwrng bs=64 count=64 status=none | wc -c")
            assert network.end(guest) == 0
    finally:
        daemon.terminate()
        daemon.wait(10)


# with the embedded guest, which boots in a second

SMALL = """
[vm]
name = "peers"
memory = "32M"
[[device]]
id = "disk0"
type = "vhost-user"
device = "blk"
command = {command}
"""


def small(folder: Path, command: list[str]) -> Guest:
    """Boot the embedded guest with one disk."""
    (folder / "vm.toml").write_text(SMALL.format(command=json.dumps(command)))
    return Guest([sys.executable, "-m", "orchestrator", "up", str(folder / "vm.toml")])


OURS = ["-m", "devproc.virtio_blk", "--vhost-user", "{socket}", "--image", "disk.img"]


def test_our_own_back_end_is_killed_again_and_again(tmp_path: Path) -> None:
    make("raw", tmp_path / "disk.img")
    with small(tmp_path, [sys.executable, "-P", *OURS]) as guest:
        guest.wait_for("busvm>")
        guest.type("d w 0 2048 5;d s 20000 32")
        for victim in ("disk0.backend", "disk0", "disk0.backend"):
            time.sleep(0.4)
            kill(victim)
        assert "errors=0 result=ok" in guest.wait_for("stress:", 60)
        assert "count=20000 depth=32 errors=0" in guest.wait_for("iops", 60)
        guest.type("d v 0 2048 5;i;q 3")
        assert "errors=0 result=ok" in guest.wait_for("interrupts:", 60)
        assert "lost=0" in guest.wait_for("time=", 60)
        assert guest.status() == 3


def test_a_pause_keeps_the_interrupts_of_requests_that_end_meanwhile(tmp_path: Path) -> None:
    make("raw", tmp_path / "disk.img")
    with small(tmp_path, [sys.executable, "-P", *OURS]) as guest:
        guest.wait_for("busvm>")
        guest.type("d s 20000 32")
        for order in ("pause", "resume") * 3:
            time.sleep(0.2)
            command = [sys.executable, "-m", "orchestrator", order, "peers"]
            subprocess.run(command, check=True, capture_output=True, timeout=60)
        assert "count=20000 depth=32 errors=0" in guest.wait_for("iops", 60)
        guest.type("i;q")
        assert "lost=0" in guest.wait_for("time=", 60)
        assert guest.status() == 0


def test_a_guest_that_means_ill_ends_neither_device_nor_machine(tmp_path: Path) -> None:
    make("raw", tmp_path / "disk.img")
    with small(tmp_path, [sys.executable, "-P", *OURS]) as guest:
        guest.wait_for("busvm>")
        guest.type("h 1 2000;H;d w 0 64 7;q 0")
        said = guest.wait_for("write: ", 120)
        assert "hostile: ok kind=pci" in said
        assert "hostile: ok kind=rings attacks=85" in said
        assert guest.status(60) == 0


def test_a_daemon_that_bad_rings_bring_to_hang_up_serves_the_next_driver(tmp_path: Path) -> None:
    make("raw", tmp_path / "disk.img")
    with small(tmp_path, [program(DAEMON), *blockdevs("raw", "disk.img"), *export("{socket}")]) as guest:
        guest.wait_for("busvm>")
        guest.type("H addr-wraps;H table-loop;H desc-top;d w 0 64 7;q 0")
        said = guest.wait_for("write: ", 120) + guest.wait_for("\n")
        assert said.count("recovered=1") == 3
        assert "errors=0 result=ok" in said
        assert guest.status(60) == 0
