"""The plan is a pure function of the configuration."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from orchestrator import config, plan
from protocol.names import Runtime

GUEST = Path("/guest.elf")


def make(tmp_path: Path, text: str, debug: tuple[str, ...] = ()) -> plan.Plan:
    (tmp_path / "disk.img").touch()
    (tmp_path / "Image").touch()
    file = tmp_path / "vm.toml"
    file.write_text(text)
    return plan.make(config.load(file), Runtime("t"), guest=GUEST, debug=debug)


DISK = '[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.img"\n'
MINE = '[[device]]\nid = "mine"\ntype = "python:mydevice"\nargs = ["--speed", "9"]\nrestart = "no"\n'


def test_the_embedded_guest_boots_where_no_kernel_is_named(tmp_path: Path) -> None:
    found = make(tmp_path, "")

    assert [process.id for process in found.processes] == ["bus", "cpu"]
    cpu = found.process("cpu").argv
    assert cpu[:4] == (sys.executable, "-P", "-m", "cpu_proc")
    assert cpu[cpu.index("--kernel") + 1] == str(GUEST)
    assert cpu[cpu.index("--memory") + 1] == str(256 << 20)
    assert found.embedded


def test_a_perf_map_is_asked_for_where_code_is_translated(tmp_path: Path) -> None:
    found = make(tmp_path, '[vm]\nengine = "translate"\nperf_map = true\n')
    assert "--perf-map" in found.process("cpu").argv
    assert "--perf-map" not in make(tmp_path, '[vm]\nengine = "translate"\n').process("cpu").argv


def test_devices_get_slots_in_order_and_options_from_their_keys(tmp_path: Path) -> None:
    found = make(
        tmp_path, '[boot]\nkernel = "Image"\ncmdline = "-x"\n' + DISK + 'readonly = true\nserial = "s"\n' + MINE
    )

    disk, mine = found.devices
    assert (disk.slot, mine.slot) == ("1", "2")
    assert disk.argv[1:4] == ("-P", "-m", "devproc.virtio_blk")
    assert disk.argv[-3:] == (f"--image={tmp_path}/disk.img", "--readonly", "--serial=s")
    assert mine.argv[1:3] == ("-m", "mydevice")
    assert mine.argv[-2:] == ("--speed", "9")
    assert mine.cwd == str(tmp_path)
    assert mine.restart == "no"
    cpu = found.process("cpu").argv
    assert cpu[-4:] == ("--device", "disk0=1", "--device", "mine=2")
    assert "--cmdline=-x" in cpu
    assert not found.embedded


def test_devices_of_virtio_mmio_have_slots_of_their_own(tmp_path: Path) -> None:
    found = make(tmp_path, MINE + 'bus = "mmio"\n' + DISK + MINE.replace("mine", "more") + 'bus = "mmio"\n')

    assert [device.slot for device in found.devices] == ["mmio0", "1", "mmio1"]
    assert "--transport=mmio" in found.devices[0].argv
    assert not any("--transport" in word for word in found.devices[1].argv)
    assert found.process("cpu").argv[-6:] == ("--device", "mine=mmio0", "--device", "disk0=1", "--device", "more=mmio1")


def test_devices_behind_ports_have_them_in_order_and_empty_ones_follow(tmp_path: Path) -> None:
    more = MINE.replace("mine", "more") + 'bus = "pcie"\nplugged = false\n'
    found = make(tmp_path, "[vm]\nhotplug-ports = 2\n" + DISK + MINE + 'bus = "pcie"\n' + more)

    assert [device.slot for device in found.devices] == ["1", "pcie0", "pcie1"]
    assert [device.plugged for device in found.devices] == [True, True, False]
    assert not any("--transport" in word for device in found.devices for word in device.argv)
    cpu = found.process("cpu").argv
    assert cpu[-8:] == (
        *("--ports", "4"),
        *("--device", "disk0=1"),
        *("--device", "mine=pcie0", "--reserve", "more=pcie1"),
    )
    assert "--ports" not in make(tmp_path, DISK).process("cpu").argv


def test_slots_of_bus_0_that_ports_have_are_passed_over(tmp_path: Path) -> None:
    many = "".join(MINE.replace("mine", f"mine{n}") for n in range(16))
    found = make(tmp_path, "[vm]\nhotplug-ports = 2\n" + many)

    assert [device.slot for device in found.devices][-3:] == ["14", "15", "18"]


def test_what_is_added_is_part_of_the_plan_until_it_goes(tmp_path: Path) -> None:
    declared = make(tmp_path, DISK)
    device = config.described("more", "python:mydevice", ["restart=no"])

    added = plan.added(device, Runtime("t"), tmp_path)
    grown = declared.with_added(added)

    assert [p.id for p in grown.of_device("more")] == ["more"]
    assert (added[0].slot, added[0].added, added[0].plugged, added[0].cwd) == ("pcie", True, False, str(tmp_path))
    assert plan.Plan.from_json(json.loads(json.dumps(grown.to_json()))) == grown
    assert grown.without(["more"]) == declared
    assert grown.is_of(declared)
    assert grown.of_device("cpu") == ()


def test_what_is_swapped_stands_for_what_was_declared(tmp_path: Path) -> None:
    declared = make(tmp_path, DISK)
    (other,) = plan.added(config.described("disk0", "python:mydevice", []), Runtime("t"), tmp_path)
    own = replace(other, added=False, plugged=True, instead=declared.of_device("disk0"))

    swapped = declared.with_exchanged(own, [replace(own, id="disk0.backend", instead=(), brought=True)])

    assert [p.type for p in swapped.devices if p.id == "disk0"] == ["python:mydevice"]
    assert swapped.is_of(declared)
    assert not swapped.is_of(declared.without(["disk0"]))
    assert plan.Plan.from_json(json.loads(json.dumps(swapped.to_json()))) == swapped


def test_what_boots_becomes_options_of_the_cpu_process(tmp_path: Path) -> None:
    (tmp_path / "fw,1.bin").touch()
    found = make(
        tmp_path,
        '[vm]\ninterrupts = "plic"\n[boot]\nfirmware = "fw,1.bin"\nflash1 = "disk.img"\ndtb = "Image"\n'
        '[[load]]\nfile = "fw,1.bin"\naddress = 0x80300000\nforce-raw = true\ncpu = 0\n'
        "[[load]]\nvalue = 0\nsize = 4\naddress = 0x80000000\n"
        '[[fw-cfg]]\nname = "opt/a"\nstring = "b,c"\n',
    )

    cpu = found.process("cpu").argv
    for words in (
        ("--interrupts", "plic"),
        ("--firmware", f"{tmp_path}/fw,1.bin"),
        ("--flash1", f"{tmp_path}/disk.img"),
        ("--dtb", f"{tmp_path}/Image"),
    ):
        assert cpu[cpu.index(words[0]) + 1] == words[1]
    assert cpu[-3:] == (
        f"--load=file={tmp_path}/fw,,1.bin,address=2150629376,force-raw=true,cpu=0",
        "--load=address=2147483648,value=0,size=4",
        "--fw-cfg=name=opt/a,string=b,,c",
    )
    assert "--kernel" not in cpu
    assert not found.embedded


def test_a_device_under_the_debugger_is_left_to_the_user(tmp_path: Path) -> None:
    (disk,) = make(tmp_path, DISK, debug=("disk0",)).devices

    assert disk.start == "attach"
    assert disk.argv[1:5] == ("-m", "pdb", "-m", "devproc.virtio_blk")
    assert disk.command.startswith(sys.executable)


def test_json_gives_the_same_plan_back(tmp_path: Path) -> None:
    found = make(tmp_path, DISK)

    assert plan.Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


@pytest.mark.parametrize(("home", "added"), [("/usr/lib/python3/site-packages/x", False), ("/src/busvm/x", True)])
def test_a_checkout_is_found_by_the_processes(
    home: str, added: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(plan, "__file__", f"{home}/plan.py")
    monkeypatch.delenv("PYTHONPATH", raising=False)

    assert ("PYTHONPATH" in make(tmp_path, "").process("cpu").env) is added


def test_symbols_and_a_start_that_is_held(tmp_path: Path) -> None:
    (tmp_path / "vmlinux").touch()
    (tmp_path / "vm.toml").write_text('[debug]\nsymbols = "vmlinux"\n')
    configured = config.load(tmp_path / "vm.toml")

    found = plan.make(configured, Runtime("t"), guest=GUEST, stop_at_start=True)

    assert found.symbols == str(tmp_path / "vmlinux")
    assert "--stop-at-start" in found.process("cpu").argv
    assert "--stop-at-start" not in plan.make(configured, Runtime("t"), guest=GUEST).process("cpu").argv
    assert plan.Plan.from_json(json.loads(json.dumps(found.to_json()))) == found


THEIRS = '[[device]]\nid = "d"\ntype = "vhost-user"\ndevice = "fs"\ntag = "home"\n'


def test_a_back_end_that_somebody_else_starts_has_its_socket(tmp_path: Path) -> None:
    found = make(tmp_path, THEIRS + 'socket = "s"\nwait = 3\nqueues = 2\n')

    (device,) = found.devices
    assert device.argv[-5:] == (
        "--device=fs", f"--socket={tmp_path}/s", "--wait=3", "--tag=home", "--queues=2",
    )  # fmt: skip
    assert found.restartable == (device,)


def test_a_back_end_with_a_command_is_started_before_its_device_and_restarted(tmp_path: Path) -> None:
    found = make(tmp_path, THEIRS + 'command = ["virtiofsd", "--socket={socket}", "--dir={folder}/x"]\n')

    back_end, device = found.restartable
    socket = Runtime("t").back_end_socket("d")
    assert back_end.id == "d.backend"
    assert back_end.argv == ("virtiofsd", f"--socket={socket}", f"--dir={tmp_path}/x")
    assert (back_end.slot, back_end.serves, back_end.restart) == (None, "d", "always")
    assert device.argv[-2:] == (f"--socket={socket}", "--wait=10")
    assert found.devices == (device,)
    assert plan.Plan.from_json(json.loads(json.dumps(found.to_json()))) == found
