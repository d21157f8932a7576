"""Debian's gdb on a whole VM: stop, look, step, watch, let go, come again."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from protocol.names import Runtime
from tests.conftest import VM, Cli
from tests.integration.test_orchestrator_up import wait_for

GDB = "gdb-multiarch"
CC = "riscv64-linux-gnu-gcc"
FLAGS = (
    *("-g", "-O0", "-march=rv64gc", "-mabi=lp64d", "-mcmodel=medany", "-ffreestanding", "-fno-pic", "-no-pie"),
    *("-nostdlib", "-static", "-Wl,--no-relax", "-Wl,-Ttext=0x80200000", "-Wl,--build-id=none", "-Wl,-e,_start"),
)
pytestmark = [
    pytest.mark.peer,
    pytest.mark.skipif(not shutil.which(GDB), reason=f"{GDB} is not installed"),
    pytest.mark.skipif(not shutil.which(CC), reason=f"{CC} is not installed"),
]


@pytest.fixture(scope="session")
def elf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the guest, built with all that gdb wants to know."""
    path = tmp_path_factory.mktemp("gdb") / "guest.elf"
    subprocess.run([CC, *FLAGS, "-o", path, Path(__file__).parent / "gdb_guest.c"], check=True)
    return path


class Debugged:
    """A VM in the background, and gdb."""

    def __init__(self, cli: Cli, elf: Path, *options: str) -> None:
        self.cli = cli
        cli.write("vm.toml", f"[vm]\nname = '{VM}'\nmemory = '32M'\n[boot]\nkernel = '{elf}'\n")
        done = cli.run("up", "-d", "--wait", *options)
        assert done.returncode == 0, done.stderr

    def command(self, *lines: str) -> list[str]:
        """Return what `orchestrator gdb` prints, with commands to execute after it connected."""
        words = self.cli.run("gdb").stdout.strip()
        script = self.cli.write("script.gdb", ["set pagination off", "set confirm off", *lines])
        return ["sh", "-c", f"exec {words} -nx -batch -x {script}"]

    def gdb(self, *lines: str, timeout: float = 60) -> str:
        """Return what gdb says to these commands."""
        done = subprocess.run(
            self.command(*lines), capture_output=True, text=True, env=self.cli.env, timeout=timeout, check=False
        )
        assert "Error" not in done.stderr, done.stdout + done.stderr
        return done.stdout

    def machine(self) -> dict[str, Any]:
        """Return the properties of the machine."""
        return dict(json.loads(self.cli.run("inspect", "--json").stdout)["machine"])

    def state(self) -> str:
        """Return its state."""
        return str(self.machine()["State"])


@pytest.fixture
def vm(cli: Cli, elf: Path) -> Iterator[Debugged]:
    """Return a VM of two harts that run."""
    vm = Debugged(cli, elf, "--set", "vm.cpus=2")
    yield vm
    cli.run("down", "-t", "0")


def test_break_print_step_and_finish(vm: Debugged) -> None:
    said = vm.gdb(
        "break add if right == 10",
        "continue",
        "info breakpoints",
        "delete",  # or the other hart's hit may come first
        "backtrace 2",
        "print right",
        "up",
        "print *counter",
        "print counter->where.y < counter->where.x + 20",
        "down",
        "next",
        "print sum == left + right",
        "finish",
        "stepi",
        "print $pc != 0",
    )

    assert "Breakpoint 1, add (left=" in said
    assert "in turn (counter=0x" in said
    assert "$1 = 10" in said
    assert "name = 0x" in said
    assert '"first"' in said or '"second"' in said
    assert "$3 = 1" in said
    assert "$4 = 1" in said
    assert "Value returned is $5 = " in said
    assert "$6 = 1" in said
    assert "breakpoint already hit" in said
    assert vm.state() == "running"


def test_watchpoints(vm: Debugged) -> None:
    said = vm.gdb("watch watched", "continue", "continue", "delete", "rwatch looked_at", "continue", "delete",
                  "awatch counters[1].turns", "continue", "info threads")  # fmt: skip

    first, second = [int(line.split()[-1]) for line in said.splitlines() if line.startswith("New value")][:2]
    assert second == first + 1
    assert "hit Hardware read watchpoint 2: looked_at" in said
    assert "Value = 7" in said
    assert "hit Hardware access (read/write) watchpoint 3: counters[1].turns" in said
    assert "* 2    Thread 2 (hart 1" in said


def test_harts_are_threads(vm: Debugged) -> None:
    said = vm.gdb(
        "info threads",
        "thread 2",
        "print $mhartid",
        "set scheduler-locking on",
        "set var counters[0].hart = counters[0].turns",
        "break turn thread 2",
        "continue",
        "continue",
        "print counters[0].hart == counters[0].turns",
        "thread apply 2 1 print $mhartid",
    )

    assert "Thread 1 (hart 0, started, S mode)" in said
    assert "Thread 2 (hart 1, started, S mode)" in said
    assert "$1 = 1" in said
    assert said.count("Thread 2 hit Breakpoint 1, turn") == 2
    assert "$2 = 1" in said
    assert "$3 = 1" in said
    assert "$4 = 0" in said


def test_registers(vm: Debugged) -> None:
    said = vm.gdb(
        "break turn",
        "continue",
        "set $f9 = 2.5",
        "print $fs1.double",
        "set $s5 = 77",
        "print $s5",
        "print/x $stvec == (long)&trapped",
        "print $priv",
        "set $sscratch = 0x1234",
        "print/x $sscratch",
        "set $fcsr = 0x61",
        "print $frm",
        "print $fflags",
        "info registers csr",
        "print traps",
    )

    for index, value in enumerate(["2.5", "77", "0x1", "1", "0x1234", "3", "1", "1"], 1):
        assert f"${index} = {value}\n" in said  # the last: its own ebreak went to the guest
    assert "mstatus" in said
    assert "stimecmp" in said


def test_ctrl_c_detach_and_connect_again(vm: Debugged) -> None:
    for _ in range(3):
        said = vm.gdb(
            "python import os, signal, threading",
            "python threading.Timer(0.5, lambda: os.kill(os.getpid(), signal.SIGINT)).start()",
            "continue",
            "print 6 * 7",
            "detach",
        )
        assert "received signal SIGINT" in said
        assert "$1 = 42" in said
        assert vm.state() == "running"


def test_a_debugger_that_is_killed_leaves_a_running_machine(vm: Debugged) -> None:
    process = subprocess.Popen(
        vm.command("break turn", "continue", "python import time; time.sleep(100)"), stdout=subprocess.PIPE
    )
    wait_for(lambda: "breakpoint" in vm.machine()["StateReason"])
    assert vm.machine()["Debugger"] is True

    process.send_signal(signal.SIGKILL)
    process.wait()
    assert process.stdout is not None
    process.stdout.close()

    wait_for(lambda: vm.state() == "running")
    assert vm.machine()["Debugger"] is False
    assert "$1 = 1" in vm.gdb("print counters[0].turns > 0")


def test_held_before_the_first_instruction(cli: Cli, elf: Path) -> None:
    vm = Debugged(cli, elf, "--stop-at-start")
    machine = vm.machine()
    assert (machine["State"], machine["Clock"]) == ("paused", 0)
    assert "at start" in machine["StateReason"]
    time.sleep(0.3)
    assert "ready" not in (Runtime(VM).logs / "console.log").read_text()

    said = vm.gdb("print $pc == (long)&_start", "break main", "continue", "print hart", "print counters[0].turns")

    assert "$1 = 1" in said
    assert "Breakpoint 1, main (hart=0)" in said
    assert "$3 = 0" in said
    wait_for(lambda: "ready" in (Runtime(VM).logs / "console.log").read_text())


def test_held_at_the_start_resume_lets_it_go(cli: Cli, elf: Path) -> None:
    vm = Debugged(cli, elf, "--stop-at-start")

    assert cli.run("resume").returncode == 0
    assert vm.state() == "running"
    wait_for(lambda: "ready" in (Runtime(VM).logs / "console.log").read_text())


def test_kill_ends_the_vm_and_a_guest_that_ends_is_noticed(cli: Cli, elf: Path) -> None:
    vm = Debugged(cli, elf)
    vm.gdb("kill")
    wait_for(lambda: cli.run("ps", "-q").stdout == "")

    vm = Debugged(cli, elf)
    said = vm.gdb(
        "break turn",
        "continue",
        "delete",
        "set $a7 = 0x53525354",
        "set $a6 = 0",
        "set $a0 = 0",
        "set $a1 = 0",
        "python pc = [i['addr'] for i in gdb.selected_frame().architecture()"
        ".disassemble(int(gdb.parse_and_eval('&sbi')), count=40) if i['asm'] == 'ecall'][0]",
        "python gdb.execute(f'set $pc = {pc}')",
        "continue",
    )
    assert "exited normally" in said
    wait_for(lambda: cli.run("ps", "-q").stdout == "")


def test_the_verb_says_how_or_does_it(cli: Cli, elf: Path, tmp_path: Path) -> None:
    assert cli.run("gdb", "none").returncode == 3
    vm = Debugged(cli, elf)

    assert cli.run("gdb").stdout == f"{GDB} {elf} -ex 'target remote {Runtime(VM).gdb_socket}'\n"
    wrong = cli.run("gdb", "--symbols", "none.elf")
    assert (wrong.returncode, wrong.stderr) == (2, "error: --symbols none.elf: no ELF file that can be read\n")
    other = shutil.copy(elf, tmp_path / "other.elf")
    assert str(other) in cli.run("gdb", "--symbols", "other.elf").stdout
    assert "in ?? ()" not in cli.run("gdb", "--run", stdin="info symbol $pc\ndetach\nquit\n").stdout
    cli.env["PATH"] = str(tmp_path)
    missing = cli.run("gdb", "--run")
    assert (missing.returncode, missing.stderr) == (4, f"error: {GDB} is not installed (apt install gdb-multiarch)\n")
    assert vm.cli.run("gdb").returncode == 0
