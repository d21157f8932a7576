"""The link, both ways: a device process whose machine talks nonsense, and a machine whose disk does."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator
from random import Random

from protocol import messages
from protocol.layout import CONFIG_BAR
from protocol.names import Runtime
from tests.conformance.fake_cpu import FakeCpu
from tests.fuzz.doors.console import until
from tests.fuzz.doors.frames import bad_frame
from tests.fuzz.doors.place import Place

AT_ONCE, LAST = 500, 1 << 40
ANSWER_S = 30.0
LIES = 100  # before an answer
SIZE, TRUTH = 128, b"no lies!"


def to_a_device(place: Place, chance: Random) -> Iterator[int]:
    """Say it as the machine of a disk; yield how much was said, after the disk has answered what is right."""
    place.start("bus", "orchestrator.bus_daemon", "--vm", place.vm)
    runtime = Runtime(place.vm)
    place.wait(runtime.bus_socket.exists)
    image = place.folder / "disk.img"
    image.write_bytes(bytes(1 << 20))
    place.start("disk", "devproc.virtio_blk", "--bus", runtime.bus_address, "--id", "disk0", "--image", str(image))
    with FakeCpu(runtime.bus_address, place.folder) as cpu:
        cpu.attach()
        vendor = cpu.read(CONFIG_BAR, 0, 4)
        assert cpu.link is not None
        while True:
            for _ in range(AT_ONCE):
                cpu.link.socket.send(bad_frame(chance, cpu.epoch, to_device=True))
            cpu.link.send(messages.Barrier(cpu.epoch, LAST, "flush"))
            while (answer := cpu.link.receive(ANSWER_S)) != messages.Done(cpu.epoch, LAST):
                assert answer is not None, "the device does not answer"
            assert cpu.read(CONFIG_BAR, 0, 4) == vendor
            place.check()
            yield AT_ONCE


LIAR = """
from random import Random

from devproc.pci import PciDevice
from devproc.registers import Bar, Register
from protocol.link import Link
from tests.fuzz.doors.frames import bad_frame

chance, send = Random({seed}), Link.send


def lie(link, message):
    for _ in range({lies}):
        link.socket.send(bad_frame(chance, link.epoch, to_device=False))
    send(link, message)


Link.send = lie


class Liar(PciDevice):
    "Words, each of which only the process can say."
    vendor, device, class_code = 0x1234, 0x1AE5, 0xFF0000
    bar0 = Bar(size={size})
    def say(self):
        return int.from_bytes({truth}, "little")

    for at in range(0, {size}, 8):
        vars()[f"word{{at}}"] = word = Register(bar0, at, width=8, access="r")
        word.on_read(say)
    del at, word
"""
VM = """
[vm]
name = "{vm}"
memory = "32M"
[[device]]
id = "liar"
type = "python:liar:Liar"
"""


def to_the_machine(place: Place, chance: Random) -> Iterator[int]:
    """Say it as a guest's device, before each answer; yield how much, after the guest has read the truth from it."""
    folder = place.folder
    (folder / "vm.toml").write_text(VM.format(vm=place.vm))
    (folder / "liar.py").write_text(LIAR.format(seed=chance.getrandbits(32), lies=LIES, size=SIZE, truth=TRUTH))
    up = place.start("up", "orchestrator", "up", stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=folder)
    assert up.stdin is not None
    found = re.search(rb"bar0=(0x[0-9a-f]+)", until(place, up, b"1234:1ae5"))
    assert found is not None
    until(place, up, b"report:")
    while True:
        up.stdin.write(b"m %s %d\n" % (found[1], SIZE))
        up.stdin.flush()
        for at in range(0, SIZE, 16):
            line = until(place, up, b"%x:" % (int(found[1], 16) + at))
            assert bytes.fromhex(line.decode().partition(":")[2]) == 2 * TRUTH, line
        yield SIZE * LIES
