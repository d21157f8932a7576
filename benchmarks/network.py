"""iperf3 in guests, both directions: our network cards beside QEMU's, which take turns.

* ``user``: our machine and QEMU's own slirp, with an iperf3 on the host's 127.0.0.1. Ours tells its guest of packets
  of 65520 bytes where QEMU has 1500; with 1500 both do the same.
* ``tap``: our machine and QEMU's own device, each with a tap of its own.
* ``hub``: two of our guests, and two of QEMU's on a ``stream``.
* under QEMU: our process as a vhost-user back-end on a tap, and QEMU's own device in the same guest.

Everything runs in a network namespace, which root alone can make. Beside each figure of ours: which part of the time
its device process ran, and what each frame took of that; the guest counts frames and interrupts.
``BUSVM_WORKLOADS`` is as in `benchmarks.workloads`.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from benchmarks.disk_under_qemu import serving
from benchmarks.figures import Figure, at_least, median
from benchmarks.machines import QEMU, scratch
from benchmarks.network_machines import TAPS, Namespace, Ours, Seen, Theirs, Wire
from benchmarks.workloads.emulators import Guest
from benchmarks.workloads.image import Image, prepare

GOAL, GOAL_UNDER_QEMU = 1.0, 0.8
_ROUNDS = 3
_PROGRAMS = (QEMU, "iperf3", "ip", "unshare", "nsenter")
_HUB = "10.9.0"
_STREAM = "10.9.1"


def measure() -> Iterator[Figure]:
    """Yield the figures of each network and direction."""
    missing = [name for name in _PROGRAMS if not shutil.which(name)]
    if os.geteuid() or missing:
        print(f"network: skipped, {f'there is no {missing[0]}' if missing else 'only root can make taps'}")
        return
    with scratch() as name, ExitStack() as stack:
        namespace = Namespace()
        stack.callback(namespace.close)
        namespace.prepare()
        wires = _start(prepare(Path(name)), Path(name), namespace.inside, stack)
        yield from _compare("user", wires, ["user", "QEMU's user"], GOAL)
        yield from _compare("user 1500", wires, ["user 1500", "QEMU's user"], GOAL)
        yield from _compare("tap", wires, ["tap", "QEMU's tap"], GOAL)
        yield from _compare("hub", wires, ["hub", "QEMU's stream"], GOAL)
        yield from _compare("under QEMU", wires, ["vhost-user", "QEMU's tap"], GOAL_UNDER_QEMU)


def _start(image: Image, folder: Path, inside: list[str], stack: ExitStack) -> dict[str, Wire]:
    """Start the guests; return the wires, by name."""
    socket, stream = folder / "vhost", folder / "stream"
    back_end = [*inside, sys.executable, "-m", "devproc.virtio_net", "--backend", "tap", "--interface", "vtap"]
    process = stack.enter_context(serving([*back_end, "--vhost-user", str(socket)], socket))

    def guest(emulator: Ours | Theirs) -> Guest:
        made = Guest(emulator, image, folder)
        stack.callback(made.close)
        return made

    one = Ours("netone", image, folder, inside, {
        "user": 'backend = "user"',
        "tap": 'backend = "tap"\ninterface = "tap"',
        "hub": 'backend = "hub"\nhub = "lan"',
        "small": 'backend = "user"\nmtu = 1500\nnetwork = "10.0.3.0/24"',
    })  # fmt: skip
    two = Ours("nettwo", image, folder, inside, {"hub": f'backend = "hub"\nhub = "{one.vm}/lan"'})
    qemu = Theirs("qemu-one", image, inside, {
        "user": "-netdev user,id=user",
        "tap": "-netdev tap,id=tap,ifname=qtap,script=no,downscript=no,vhost=off",
        "stream": f"-netdev stream,id=stream,server=on,addr.type=unix,addr.path={stream}",
        "vhost": f"-chardev socket,id=c,path={socket} -netdev vhost-user,id=vhost,chardev=c",
    })  # fmt: skip
    other = Theirs("qemu-two", image, inside, {
        "stream": f"-netdev stream,id=stream,server=off,addr.type=unix,addr.path={stream}",
    })  # fmt: skip
    ours, beside, theirs, last = guest(one), guest(two), guest(qemu), guest(other)
    ours.run("true", 30)  # its processes are there, and its hub, for the other
    pids = one.of_devices()
    Wire(beside, 0, f"{_HUB}.2", "")
    wires = {
        "user": Wire(ours, 0, "10.0.2.15", "10.0.2.2", pids["user"]),
        "user 1500": Wire(ours, 3, "10.0.3.15", "10.0.3.2", pids["small"]),
        "tap": Wire(ours, 1, f"{TAPS['tap']}.2", f"{TAPS['tap']}.1", pids["tap"]),
        "hub": Wire(ours, 2, f"{_HUB}.1", f"{_HUB}.2", pids["hub"]),
        "QEMU's user": Wire(theirs, 0, "10.0.2.15", "10.0.2.2"),
        "QEMU's tap": Wire(theirs, 1, f"{TAPS['qtap']}.2", f"{TAPS['qtap']}.1"),
        "QEMU's stream": Wire(theirs, 2, f"{_STREAM}.1", f"{_STREAM}.2"),
        "vhost-user": Wire(theirs, 3, f"{TAPS['vtap']}.2", f"{TAPS['vtap']}.1", process),
    }
    Wire(last, 0, f"{_STREAM}.2", "")
    return wires


def _compare(title: str, wires: dict[str, Wire], names: list[str], goal: float) -> Iterator[Figure]:
    """Yield the ratio of two wires in each direction; ours is the first."""
    for direction in ("to the guest", "from the guest"):
        found: dict[str, list[Seen]] = {name: [] for name in names}
        for _ in range(_ROUNDS):
            for name, seen in found.items():
                seen.append(wires[name].transfer(receive=direction == "to the guest"))
        mine, theirs = (median(seen.rate for seen in found[name]) for name in names)
        yield at_least(f"{title}, {direction}: of {names[1]}", mine / theirs, "×", goal, _words(found, names))


def _words(found: dict[str, list[Seen]], names: list[str]) -> str:
    """Say more of ours, and the rate of the peer."""
    ours, peer = (found[name] for name in names)
    rate, frames, interrupts, device, each = (
        median(getattr(seen, what) for seen in ours) for what in ("rate", "frames", "interrupts", "device", "each_us")
    )
    return (
        f"{rate:.0f} Mbit/s, device {device:.2f}, {each:.1f} µs/frame, {frames:.0f} frames/s, "
        f"{interrupts:.0f} interrupts/s; {names[1]} {median(seen.rate for seen in peer):.0f} Mbit/s"
    )
