"""What follows from a declaration alone: options, programs, descriptions, nodes, and behaviour under any accesses."""

from __future__ import annotations

import argparse
import io
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.classes import config_of, find, program_of
from devproc.describe import describe, markdown
from devproc.device import Device
from devproc.host import main
from devproc.machine import Machine
from devproc.options import add_options, configured
from devproc.pci import PciDevice
from devproc.platform import PlatformDevice
from devproc.registers import Bar, Register
from devproc.strategies import Access, accesses, exercise
from devproc.template.clock import Clock
from devproc.template.device import Config as RngConfig
from devproc.template.device import Rng
from devproc.template.entropy import Config as EntropyConfig
from devproc.template.entropy import Entropy
from devproc.virtio_blk.config import Config as DiskConfig
from devproc.virtio_blk.device import BlockDevice, open_device
from protocol.errors import ConfigError, VersionMismatch

ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@dataclass(frozen=True)
class Everything:
    """One field of each type."""

    path: Path
    count: Annotated[int, "how many"] = 3
    share: float = 0.5
    mode: Literal["fast", "safe"] = "fast"
    name: str = ""
    quiet: bool = False
    careful: bool = True
    limit: int | None = None
    made: str = field(default_factory=lambda: "here")

    def __post_init__(self) -> None:
        if self.count < 0:
            raise ValueError("--count: not less than 0")


def parsed(*arguments: str) -> Any:
    parser = argparse.ArgumentParser()
    add_options(parser, Everything)
    return configured(Everything, parser.parse_args(arguments))


def test_fields_are_options() -> None:
    assert parsed("--path", "x") == Everything(Path("x"))
    given_all = parsed(
        "--path=y", "--count=0x10", "--share=2", "--mode=safe", "--name=n", "--quiet", "--no-careful", "--limit=7"
    )
    assert given_all == Everything(Path("y"), 16, 2.0, "safe", "n", quiet=True, careful=False, limit=7)


def test_wrong_values_are_said_in_one_line() -> None:
    with pytest.raises(ConfigError, match="--path is missing"):
        parsed()
    with pytest.raises(ConfigError, match="not less than 0"):
        parsed("--path=x", "--count=-1")
    with pytest.raises(TypeError, match="no option"):
        add_options(argparse.ArgumentParser(), dataclass(type("Odd", (), {"__annotations__": {"x": "list[int]"}})))


def test_a_class_is_found_by_its_name() -> None:
    assert find("devproc.template.device:Rng") is Rng
    for name, message in (("nowhere.at:All", "no module"), ("json:Rng", "no class"), ("json:dumps", "is no device")):
        with pytest.raises(ConfigError, match=message):
            find(name)


def test_a_program_offers_what_its_class_is() -> None:
    assert (program_of(Rng).transports, program_of(Rng).vhost_user) == (("pci",), False)
    assert (program_of(Entropy).transports, program_of(Entropy).vhost_user) == (("pci", "mmio"), True)
    assert (program_of(Clock).transports, config_of(Clock)) == (("platform",), None)

    class Needy(PciDevice):
        """Wants two things."""

        def __init__(self, one: int, two: int) -> None: ...

    with pytest.raises(TypeError, match="one configuration"):
        program_of(Needy)


def test_a_description_is_the_declaration(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(program_of(Rng), ["--describe", "json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown == describe(Rng)
    data = next(row for row in shown["registers"] if row["name"] == "data")
    assert (data["bar"], data["offset"], data["load"], data["store"]) == (0, 0, "message", "drop")
    assert main(program_of(Entropy), ["--describe", "--transport", "mmio"]) == 0
    assert "| `queue_notify` | bar0+0x50 | 4 |" in capsys.readouterr().out
    page = markdown(describe(BlockDevice.over("pci")), inherited=Entropy.over("pci").registers)
    assert "`device_status`" not in page
    assert [name for name in ("`capacity`", "`type`") if name not in page] == []


def test_any_virtio_device_takes_requests_at_the_prompt(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = "send 0 +4\nsetup\nsend 0 +16\nsend 0\nsend 3 +1\nsend 0 xy\nsend 0 0011\nqueues\n"
    for transport in ("pci", "mmio"):
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        assert main(program_of(Entropy), ["--poke", "--transport", transport]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0] == "set the device up first: setup"
        assert lines[1] == "features 0x100000000, 1 queues of 4"
        assert re.fullmatch("16 bytes:( [0-9a-f]{2}){16}", lines[2])
        assert lines[3].startswith("send: nothing to send")
        assert lines[4] == "send: queue 3, there are 1"
        assert lines[5].startswith("send: non-hexadecimal")
        assert lines[6] == "0 bytes: "
        assert "used=0x2 inflight=0x0" in lines[7]


def test_a_page_of_other_registers_is_refused() -> None:
    class First(PciDevice):
        """A device."""

        bar0 = Bar(0x100)
        old = Register(bar0, 0)

    class Second(PciDevice):
        """The same, moved."""

        bar0 = Bar(0x100)
        old = Register(bar0, 4)

    first = First()
    machine = Machine.private(first.page_size)
    first.attach(machine)
    with pytest.raises(VersionMismatch, match="other registers"):
        Second().attach(machine)
    assert First().attach(machine)


def test_a_platform_device_has_to_be_found() -> None:
    assert Clock().device_tree() == {"compatible": ["google,goldfish-rtc"]}
    with pytest.raises(TypeError, match="no compatible"):
        type("Lost", (PlatformDevice,), {})
    with pytest.raises(TypeError, match="bar0"):
        type("Empty", (PlatformDevice,), {"compatible": ("a,b",)})


def test_the_clock_rings_once_its_time_has_come() -> None:
    now = [10_000_000_000]
    clock = Clock(lambda: now[0])
    machine = Machine.private(clock.page_size)
    clock.attach(machine)
    clock.set_register("time_high", 0)
    clock.set_register("time_low", 5_000_000_000 & 0xFFFF_FFFF)
    assert clock.get_register("time_low") | clock.get_register("time_high") << 32 == 5_000_000_000 & 0xFFFF_FFFF

    clock.set_register("irq_enabled", 1)
    clock.set_register("alarm_high", 0)
    clock.set_register("alarm_low", clock.get_register("time_low") + 1000)
    clock._rang()
    assert (machine.irq.word(0), clock.alarm_status) == (0, 1)
    now[0] += 2000
    clock._rang()
    assert (machine.irq.word(0), clock.alarm_status) == (1, 0)
    clock.set_register("clear_interrupt", 1)
    assert machine.irq.word(0) == 0
    clock.detach()
    clock.release()
    clock.close()
    machine.close()


def disk(folder: Path, transport: str) -> Callable[[], Device]:
    image = folder / f"{transport}.raw"
    image.write_bytes(bytes(1 << 16))
    return lambda: open_device(DiskConfig(image=image), transport)


@ANY
@given(accesses(Rng))
def test_any_accesses_to_the_template(found: list[Access]) -> None:
    exercise(lambda: Rng(RngConfig(limit=2)), found)


@ANY
@given(accesses(Clock))
def test_any_accesses_to_the_clock(found: list[Access]) -> None:
    exercise(lambda: Clock(lambda: 5), found)


@pytest.mark.parametrize("transport", ["pci", "mmio"])
@ANY
@given(data=st.data())
def test_any_accesses_to_virtio_devices(data: st.DataObject, tmp_path: Path, transport: str) -> None:
    exercise(lambda: Entropy.over(transport)(EntropyConfig()), data.draw(accesses(Entropy.over(transport))))
    exercise(disk(tmp_path, transport), data.draw(accesses(BlockDevice.over(transport))))


def test_the_kit_loads_no_more_than_it_needs() -> None:
    """It is to be there in 0.15 s (``python -m benchmarks start``): nothing slow comes in by accident."""
    script = "import sys, devproc.virtio, devproc.pci, devproc.platform, devproc.classes; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    slow = {"numpy", "numba", "zmq", "asyncio", "msgspec", "msgpack", "dbus_fast", "hypothesis", "ctypes", "tomllib"}
    assert not slow & set(done.stdout.split())
