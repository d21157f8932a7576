"""Debian's gdb on Debian's own kernel: a system call and a driver's function, with symbols that the guest itself tells.

Debian keeps the kernel's debugging information in a package of about a gigabyte. Here the addresses come from the
guest's /proc/kallsyms, and the structures are the few whose layout is part of the kernel's interface to programs, or
that begin with such a one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from protocol.names import Runtime
from tests.conftest import VM
from tests.guest.expect import Guest
from tests.guest.test_debian import PASSWORD, machine, up
from tests.integration.test_gdb import CC, GDB

pytestmark = [
    pytest.mark.boot,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not shutil.which(GDB), reason=f"{GDB} is not installed"),
    pytest.mark.skipif(not shutil.which(CC), reason=f"{CC} is not installed"),
]

# vp_notify_with_data: the disk offers NOTIFICATION_DATA
NAMES = (
    "do_sys_openat2", "do_sys_open", "__riscv_sys_openat", "virtio_queue_rq", "vp_notify_with_data", "init_uts_ns",
    "_stext",
)  # fmt: skip
TYPES = """
struct open_how { unsigned long flags, mode, resolve; };
struct new_utsname { char sysname[65], nodename[65], release[65], version[65], machine[65], domainname[65]; };
struct blk_mq_queue_data { void *rq; _Bool last; };
struct open_how *a; struct new_utsname *b; struct blk_mq_queue_data *c;
"""


def symbols(path: Path, kallsyms: str) -> None:
    """Write an ELF file with the types above and each function in a section at its address."""
    found = re.findall(r"^([0-9a-f]{16}) (\w) (\w+)(?:\t\[\w+\])?$", kallsyms, re.M)
    functions = [(name, address) for address, kind, name in found if kind in "tT"]
    lines = [
        f'.section .at.{name},"ax",@nobits\n.globl {name}\n.type {name},@function\n{name}: .skip 64\n.size {name},64'
        for name, _ in functions
    ]
    source = path.with_suffix(".c")
    source.write_text(TYPES + "__asm__(" + "\n".join(f'"{line}\\n"' for part in lines for line in
                                                     part.replace('"', r"\"").split("\n")) + ");\n")  # fmt: skip
    places = [f"-Wl,--section-start=.at.{name}=0x{address}" for name, address in functions]
    subprocess.run(
        [CC, "-g", "-nostdlib", "-static", "-no-pie", "-mcmodel=medany", "-Wl,--no-relax", "-Wl,-e,0", *places,
         "-Wl,--no-warn-rwx-segments", "-Wl,--build-id=none", "-o", path, source],
        check=True,
    )  # fmt: skip


def debug(guest: Guest, folder: Path, command: str, *lines: str) -> str:
    """Return what gdb says while ``command`` runs in the guest's shell; the script's ``continue`` waits for it."""
    script = folder / "script.gdb"
    script.write_text("\n".join(["set pagination off", "set confirm off", *lines]) + "\n")
    words = [GDB, "-nx", "-batch", folder / "symbols.elf", "-ex", f"target remote {Runtime(VM).gdb_socket}"]
    guest.type(f"sleep 2; {command}; echo end-of-''command")
    done = subprocess.run([*words, "-x", script], capture_output=True, text=True, timeout=200, check=False)
    assert "Error" not in done.stderr, done.stdout + done.stderr
    guest.wait_for("end-of-command\n")
    return done.stdout


def test_a_system_call_and_a_driver_of_debians_kernel(debian: Path, tmp_path: Path) -> None:
    with up(machine(debian, tmp_path, VM, "translate")) as guest:
        guest.login(PASSWORD)
        kallsyms = guest.run(f"grep -wE '{'|'.join(NAMES)}' /proc/kallsyms; dmesg -n 1")
        symbols(tmp_path / "symbols.elf", kallsyms)
        (uts,) = re.findall(r"([0-9a-f]{16}) D init_uts_ns", kallsyms)
        release = guest.run("uname -r").strip()

        said = debug(
            guest, tmp_path, "cat /etc/hostname > /root/copy; hostname elsewhere",
            'break *do_sys_openat2 if $_streq((char *)$a1, "/etc/hostname")',
            "continue", "print (char *)$a1", "print *(struct open_how *)$a2", "backtrace 2",
            f"print ((struct new_utsname *)0x{uts})->release", "print $priv",
            "stepi", "stepi", "info symbol $pc", "delete",
            f"watch -location ((struct new_utsname *)0x{uts})->nodename[0]", "continue", "delete", "detach",
        )  # fmt: skip
        assert "Breakpoint 1, 0x" in said
        assert '"/etc/hostname"' in said
        assert "flags = 32768, mode = 0, resolve = 0" in said  # O_RDONLY | O_LARGEFILE
        assert "in do_sys_openat2 ()" in said
        assert f'"{release}\\' in said or f'"{release}"' in said
        assert "$4 = 1\n" in said
        assert "do_sys_openat2 + " in said
        assert "Old value = 98 'b'\nNew value = 101 'e'" in said

        said = debug(
            guest, tmp_path, "sync; echo 3 > /proc/sys/vm/drop_caches; sha256sum /bin/ls > /dev/null",
            "break *virtio_queue_rq", "continue", "print *(struct blk_mq_queue_data *)$a1",
            "finish", "print (int)$a0", "delete", "break *vp_notify_with_data", "continue", "backtrace 1", "detach",
        )  # fmt: skip
        assert "Breakpoint 1, 0x" in said
        assert re.search(r"rq = 0xff\w+, last = ", said)
        assert "$2 = 0\n" in said  # BLK_STS_OK
        assert "in vp_notify_with_data ()" in said

        assert guest.run("cat /root/copy; hostname").split() == ["busvm", "elsewhere"]
        guest.type("poweroff")
        assert guest.status(120) == 0
