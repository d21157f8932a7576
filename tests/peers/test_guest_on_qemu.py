"""The embedded guest on QEMU's ``virt``: what it reports there is what it has to report on busvm.

Every run is one QEMU of its own with the commands in the boot arguments. QEMU 7.2 or newer: ``aia=aplic-imsic`` and
``virtio-blk-pci`` are needed. A missing QEMU fails these tests: they are only run when peers are asked for.
"""

import re
import shutil
import subprocess
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

import guest

pytestmark = pytest.mark.peer

QEMU = "qemu-system-riscv64"
SECTOR = 512
DISK_SECTORS = 8192
REPORT = re.compile(r"^report: (\d+) functions, (\d+) devices exercised, (\d+) failures$", re.MULTILINE)
# Counted with -icount: one guest instruction is one nanosecond of virtual time there.
ICOUNT = ("-icount", "shift=0,sleep=off")  # asleep the clock jumps: nothing depends on how busy the host is
TIMER_CHECK_NS = 1_000_000  # of the report, asleep in the timer check


@dataclass(frozen=True)
class Run:
    """One finished run: what came out of the UART, and QEMU's exit status."""

    text: str
    status: int

    def line(self, word: str) -> dict[str, str]:
        """The key=value words of the one line that starts with ``word``."""
        lines = [line for line in self.text.splitlines() if line.startswith(word)]
        assert len(lines) == 1, (word, self.text)
        return dict(re.findall(r'(\w+)=("[^"]*"|\S+)', lines[0]))


@dataclass(frozen=True)
class Disk:
    path: Path
    content: bytes


Boot = Callable[..., Run]


@pytest.fixture(scope="module")
def qemu() -> str:
    program = shutil.which(QEMU)
    if program is None:
        pytest.fail(f"{QEMU} is not installed (Debian: apt-get install qemu-system-misc)")
    return program


@pytest.fixture
def disk(tmp_path: Path) -> Disk:
    words = (f"word {n:011d}".encode() for n in range(DISK_SECTORS * SECTOR // 16))
    content = b"".join(words)
    path = tmp_path / "disk.raw"
    path.write_bytes(content)
    return Disk(path, content)


def command_line(program: str, aia: str, disk: Disk | None, extra: Sequence[str]) -> list[str]:
    drive = [
        "-drive", f"file={disk.path},format=raw,if=none,id=d0",
        "-device", "virtio-blk-pci,disable-legacy=on,drive=d0,serial=BUSVM-0",
    ] if disk else []  # fmt: skip
    return [
        program, "-M", f"virt,aia={aia}", "-m", "128", "-display", "none", "-monitor", "none", "-serial", "stdio",
        "-kernel", str(guest.elf_path()), *drive, *extra,
    ]  # fmt: skip


@pytest.fixture(params=["none", "aplic-imsic"])
def aia(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def boot(qemu: str, aia: str, disk: Disk) -> Boot:
    def run(commands: str, *extra: str, with_disk: bool = True) -> Run:
        arguments = command_line(qemu, aia, disk if with_disk else None, extra)
        arguments += ["-append", f'run="{commands}"']
        done = subprocess.run(
            arguments, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
        )
        return Run(done.stdout, done.returncode)

    return run


def test_report_finds_and_exercises_every_device(boot: Boot, aia: str, disk: Disk) -> None:
    devices = ["-device", "virtio-rng-pci,disable-legacy=on", "-device", "edu", "-netdev", "user,id=n0"]
    run = boot(
        "q", "-smp", "2", *devices, "-device", "virtio-net-pci,disable-legacy=on,netdev=n0,mac=52:54:00:00:00:07"
    )

    found = REPORT.search(run.text)
    assert found
    assert found.groups() == ("5", "4", "0")
    assert run.line("sbi:")["harts_online"] == "2"
    assert re.search(r"^00:01\.0 1af4:1042 010000 virtio-blk bar", run.text, re.MULTILINE)
    sector = re.search(r"^disk0: sector=0 status=0 crc32=(\w+) first=(\w+) flush=ok", run.text, re.MULTILINE)
    assert sector
    assert int(sector[1], 16) == zlib.crc32(disk.content[:SECTOR])
    assert bytes.fromhex(sector[2]) == disk.content[:16]
    identity = run.line("disk0: at=")
    assert (identity["sectors"], identity["id"]) == (str(DISK_SECTORS), '"BUSVM-0"')
    assert identity["interrupt"] == ("polled" if aia == "none" else "msix")
    assert run.line("net:")["mac"] == "52:54:00:00:00:07"
    assert run.line("rng:")["length"] == "16"
    assert int(run.line("rtc:")["unix"]) > 1_600_000_000
    assert "busvm> " not in run.text


def test_boot_report_takes_few_instructions(boot: Boot) -> None:
    run = boot("q", *ICOUNT, with_disk=False)

    assert int(run.line("cost:")["instret"]) - TIMER_CHECK_NS < 1_000_000


@pytest.mark.parametrize("code", [0, 1, 42])
def test_power_off_code_becomes_the_exit_status(boot: Boot, code: int) -> None:
    assert boot(f"q {code}", with_disk=False).status == code


def test_typed_commands_are_obeyed_and_unknown_ones_explained(qemu: str, aia: str) -> None:
    arguments = command_line(qemu, aia, None, [])
    with subprocess.Popen(arguments, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin
        assert process.stdout
        before = ""
        while not before.endswith("busvm> "):  # the firmware discards what is typed while it starts
            character = process.stdout.read(1)
            assert character, before
            before += character
        after, _ = process.communicate("x\ni;m 0x80200000 4\n\nq 9\n", timeout=60)

    assert process.returncode == 9
    assert after.startswith("x\n? help")
    assert after.count("\nbusvm> ") == 3
    assert "\ninterrupts: kind=" in after
    assert "\n80200000: 97 " in after


def test_reboot_starts_the_report_again(qemu: str, disk: Disk) -> None:
    arguments = command_line(qemu, "aplic-imsic", disk, ["-append", "run=r"])
    with subprocess.Popen(arguments, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True) as process:
        assert process.stdout
        reports = 0
        for line in process.stdout:
            reports += REPORT.match(line.rstrip()) is not None
            if reports == 2:
                break
        process.kill()
    assert reports == 2


def test_disk_read_gives_the_image_s_bytes(boot: Boot, disk: Disk) -> None:
    words = boot("d r 5 64;q").line("read:")

    assert words["status"] == "0"
    assert int(words["crc32"], 16) == zlib.crc32(disk.content[5 * SECTOR : 69 * SECTOR])


def test_disk_write_reaches_the_image_and_nothing_else(boot: Boot, disk: Disk) -> None:
    run = boot("d w 100 128 7;d f;q")

    assert run.line("write:")["result"] == run.line("flush:")["result"] == "ok"
    after = disk.path.read_bytes()
    assert zlib.crc32(after[100 * SECTOR : 228 * SECTOR]) == int(run.line("write:")["crc32"], 16)
    assert after[: 100 * SECTOR] == disk.content[: 100 * SECTOR]
    assert after[228 * SECTOR :] == disk.content[228 * SECTOR :]
    again = boot("d v 100 128 7;q").line("verify:")
    assert (again["errors"], again["result"]) == ("0", "ok")
    assert int(boot("d v 99 2 7;q").line("verify:")["errors"]) == SECTOR // 8


def test_random_reads_in_depth_complete_and_interrupts_arrive(boot: Boot, aia: str) -> None:
    run = boot("d s 500 32;i;q")

    assert (run.line("stress:")["count"], run.line("stress:")["errors"]) == ("500", "0")
    assert run.line("interrupts:")["lost"] == "0"
    assert (int(run.line("interrupts:")["external"]) > 10) == (aia != "none")


def test_hostile_accesses_leave_the_machine_working(boot: Boot, disk: Disk) -> None:
    run = boot("h 11 3000;d r 0;H;d r 1;q 3", "-device", "virtio-rng-pci,disable-legacy=on")

    assert run.status == 3
    results = re.findall(r"^hostile: (\w+) kind=(\w+)", run.text, re.MULTILINE)
    assert results == [("ok", "pci"), ("ok", "rings")], run.text
    assert run.text.count("recovered=1") == run.text.count("attack: ") > 80
    assert run.text.count("\nread: ") == 2
    assert disk.path.read_bytes() == disk.content


def test_user_mode_memory_and_floating_point_pass(boot: Boot) -> None:
    run = boot("m;u;f;q", with_disk=False)

    assert [run.line(word)["result"] for word in ("memtest:", "user:", "float:")] == ["ok", "ok", "ok"]


def test_benchmarks_print_name_value_and_unit(boot: Boot) -> None:
    run = boot("b;q")

    figures = {
        name: (int(value), unit) for name, value, unit in re.findall(r"^bench (\w+) (\d+) (\S+)", run.text, re.M)
    }
    assert figures["cpu_check"] == (1, "ok")
    assert figures["cpu_mips"][0] > 0
    expected = {"config_read", "page_read", "side_effect_read_p50", "side_effect_read_p99", "blk_round_trip_p50"}
    assert expected | {"blk_round_trip_p99", "blk_sequential_read"} <= figures.keys()


def test_nominal_instruction_count_is_the_counted_one(qemu: str) -> None:
    arguments = [*command_line(qemu, "none", None, ICOUNT), "-append", "run=b c;q"]
    done = subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=True, stdin=subprocess.DEVNULL)

    counted = re.search(r"^bench cpu_instret (\d+) ", done.stdout, re.MULTILINE)
    source = (guest.elf_path().parent / "src" / "bench_cpu.c").read_text()
    nominal = re.search(r"NOMINAL_INSTRUCTIONS (\d+)UL", source)
    assert counted
    assert nominal
    assert abs(int(counted[1]) / int(nominal[1]) - 1) < 0.005
