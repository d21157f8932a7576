"""Real firmware in M mode, the plain interrupt controller, and what is in memory and flash when a machine begins."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from cpu_proc.boot.config import BootConfig
from cpu_proc.boot.fdt import Tree
from cpu_proc.boot.tree import describe
from guest import elf_path
from tests.conftest import Cli
from tests.guest.expect import Guest

OPENSBI = Path("/usr/lib/riscv64-linux-gnu/opensbi/generic")
U_BOOT = Path("/usr/lib/u-boot")
# t0 = 0x100000 (sifive_test), t1 = 0x75555: power off with status 7
POWER_OFF_7 = b"".join(
    word.to_bytes(4, "little") for word in (0x0010_02B7, 0x0007_5337, 0x5553_0313, 0x0062_A023, 0x0000_006F)
)


def installed(path: Path, package: str) -> Path:
    """Return the path of a file of a Debian package."""
    if not path.exists():
        pytest.fail(f"{path} is missing: apt-get install {package} (.ci/run does)")
    return path


def up(folder: Path, text: str) -> Guest:
    """Start the machine that ``text`` describes."""
    (folder / "vm.toml").write_text(text)
    return Guest([sys.executable, "-m", "orchestrator", "up", str(folder / "vm.toml")])


@pytest.mark.parametrize(
    ("interrupts", "firmware", "cpus"),
    [("plic", None, 2), ("plic", "fw_dynamic.elf", 2), ("aia", "fw_dynamic.bin", 2), ("aia", "fw_jump.bin", 1)],
)
def test_the_embedded_guest_finds_the_machine_it_was_promised(
    tmp_path: Path, interrupts: str, firmware: str | None, cpus: int
) -> None:
    for disk in ("one.raw", "two.raw"):
        (tmp_path / disk).write_bytes(bytes(4 << 20))
    boot = f'kernel = "{elf_path()}"\ncmdline = "run=i;u;q 7"\n'
    if firmware:
        boot += f'firmware = "{installed(OPENSBI / firmware, "opensbi")}"\n'
    with up(
        tmp_path,
        f'[vm]\nname = "fw-{interrupts}-{firmware}"\ninterrupts = "{interrupts}"\ncpus = {cpus}\n[boot]\n{boot}'
        '[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "one.raw"\n'
        '[[device]]\nid = "rng0"\ntype = "python:devproc.template"\n'
        '[[device]]\nid = "disk1"\ntype = "virtio-blk"\nimage = "two.raw"\nreadonly = true\nqueues = 2\n',
    ) as guest:
        said = guest.wait_for("0 failures", 60)
        assert guest.status(30) == 7
    assert f"harts={cpus} " in said
    assert f"interrupts={'plic' if interrupts == 'plic' else 'imsic'}" in said
    assert "4 functions, 3 devices exercised" in said
    assert f"implementation={1 if firmware else 1651864438} " in said
    assert ("OpenSBI v" in said) is bool(firmware)
    assert ("aia" in "".join(re.findall("Boot HART ISA Ext.*", said))) is (bool(firmware) and interrupts == "aia")


def test_the_users_own_device_tree_is_the_guests(cli: Cli) -> None:
    tree = Tree(describe(BootConfig(elf_path()), 1, 256 << 20, "aia")(None))
    tree.root.properties["model"] = "mine"
    (cli.folder / "own.dtb").write_bytes(tree.flatten())
    cli.write(
        "vm.toml", f'[vm]\nname = "own"\n[boot]\nkernel = "{elf_path()}"\ndtb = "own.dtb"\ncmdline = "run=i;q 7"\n'
    )

    done = cli.run("up")

    assert (done.returncode, 'machine: model="mine" harts=1' in done.stdout) == (7, True)


LINUX = """
[vm]
name = "{name}"
memory = "512M"
engine = "{engine}"
interrupts = "{interrupts}"
cpus = {cpus}
[boot]
kernel = "{image}/vmlinuz"
initrd = "{image}/initrd.img"
cmdline = "console=ttyS0 root=/dev/vda ro init=/bin/sh"
{more}
[[device]]
id = "disk0"
type = "virtio-blk"
bus = "{bus}"
image = "{image}/root.ext4"
readonly = true
"""


def shell(guest: Guest) -> None:
    """Wait for the shell that stands in for init, and make its answers easy to cut."""
    guest.wait_for("# ", 240)
    guest.type("bind 'set enable-bracketed-paste off' 2>/dev/null; stty -echo; PS1=; echo re''ady")
    guest.wait_for("ready\n", 60)
    guest.run("mount -t proc proc /proc; mount -t sysfs sysfs /sys")


@pytest.mark.boot
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("interrupts", "firmware", "bus", "disk", "implementation", "cpus"),
    [
        ("plic", None, "pci", r"SiFive PLIC +33 .*virtio0", "0x62757376", 4),
        ("plic", "fw_dynamic.elf", "pci", r"SiFive PLIC +33 .*virtio0", "0x1", 4),
        ("aia", "fw_dynamic.bin", "pci", r"PCI-MSIX-0000:00:01.0 .*virtio0-req", "0x1", 1),
        ("plic", None, "mmio", r"SiFive PLIC +1 .*virtio0", "0x62757376", 2),
        ("aia", None, "mmio", r"APLIC-MSI-d000000\S* +1 .*virtio0", "0x62757376", 1),
    ],
)
def test_debian_mounts_its_disk(
    debian: Path,
    tmp_path: Path,
    interrupts: str,
    firmware: str | None,
    bus: str,
    disk: str,
    implementation: str,
    cpus: int,
) -> None:
    more = f'firmware = "{installed(OPENSBI / firmware, "opensbi")}"\n' if firmware else ""
    more += '[[fw-cfg]]\nname = "opt/org.example/key"\nstring = "a value, with a comma"\n'
    name = f"debian-{interrupts}-{bus}-{'opensbi' if firmware else 'builtin'}"
    text = LINUX.format(
        name=name,
        engine="translate" if bus == "mmio" else "interp",
        interrupts=interrupts,
        bus=bus,
        image=debian,
        more=more,
        cpus=cpus,
    )
    with up(tmp_path, text) as guest:
        shell(guest)
        found = guest.run("cat /proc/interrupts")
        counted = re.search(rf":((?: +\d+)+) +{disk}", found)
        assert counted, found
        assert sum(map(int, counted[1].split())) > 20
        assert len(counted[1].split()) == cpus
        assert f"implementation ID={implementation} " in guest.run("dmesg")
        assert guest.run("/sbin/modprobe qemu_fw_cfg 2>&1") == ""
        assert guest.run("cat /sys/firmware/qemu_fw_cfg/by_name/opt/org.example/key/raw") == "a value, with a comma"
        guest.type("echo o > /proc/sysrq-trigger")
        assert guest.status(60) == 0


@pytest.mark.parametrize("mode", ["M", "S"])
def test_u_boot_gives_its_prompt_and_drives_the_flash(tmp_path: Path, mode: str) -> None:
    with (tmp_path / "flash1").open("wb") as file:
        file.truncate(32 << 20)
    if mode == "M":
        boot = f'firmware = "{installed(U_BOOT / "qemu-riscv64/u-boot.bin", "u-boot-qemu")}"\n'
    else:
        boot = f'firmware = "{installed(OPENSBI / "fw_dynamic.bin", "opensbi")}"\n'
        boot += f'kernel = "{installed(U_BOOT / "qemu-riscv64_smode/u-boot.bin", "u-boot-qemu")}"\n'
    text = f'[vm]\nname = "u-boot-{mode}"\ninterrupts = "plic"\n[boot]\n{boot}flash1 = "flash1"\n'
    with up(tmp_path, text) as guest:
        guest.wait_for("Hit any key", 90)
        guest.type("")
        guest.wait_for("=> ", 60)
        guest.type("mw.l 22000000 00980098; md.l 22000040 3; mw.l 22000000 00ff00ff")
        assert "22000040: 00510051 00520052 00590059" in guest.wait_for("=> ", 30)
        guest.type("protect off 22000000 2203ffff; erase 22000000 2203ffff; mw.b 81000000 5a 800")
        assert "Erased 2 sectors" in guest.wait_for("=> ", 30)
        guest.type("cp.b 81000000 22000100 800; cmp.b 81000000 22000100 800")
        assert "Total of 2048 byte(s) were the same" in guest.wait_for("were the same", 30)
        guest.wait_for("=> ", 30)
        guest.type("reset")
        guest.wait_for("Hit any key", 90)  # firmware and all begin anew
        guest.type("")
        guest.wait_for("=> ", 60)
        guest.type("poweroff")
        assert guest.status(30) == 0
    with (tmp_path / "flash1").open("rb") as file:
        content = file.read(0x40001)
    assert content == b"\xff" * 0x100 + b"\x5a" * 0x800 + b"\xff" * (0x40000 - 0x900) + b"\0"


@pytest.mark.parametrize("cpu", [0, 1])
def test_a_load_says_where_a_hart_begins(cli: Cli, cpu: int) -> None:
    (cli.folder / "off.bin").write_bytes(POWER_OFF_7)
    cli.write(
        "vm.toml",
        f'[vm]\nname = "load{cpu}"\ncpus = 2\n[[load]]\nfile = "off.bin"\naddress = 0x80300000\ncpu = {cpu}\n',
    )

    assert cli.run("up").returncode == 7


def test_values_are_code_at_the_start_of_memory(cli: Cli) -> None:
    words = [int.from_bytes(POWER_OFF_7[at : at + 4], "little") for at in range(0, len(POWER_OFF_7), 4)]
    cli.write(
        "vm.toml",
        '[vm]\nname = "values"\n'
        + "".join(f"[[load]]\naddress = {0x8000_0000 + 4 * i}\nvalue = {w}\nsize = 4\n" for i, w in enumerate(words)),
    )

    assert cli.run("up").returncode == 7


@pytest.mark.parametrize(
    ("key", "content"), [("firmware", b"not code\n"), ("kernel", b"\x7fELF" + bytes(60)), ("dtb", b"\xd0\x0d\xfe\xed")]
)
def test_garbage_is_one_line_and_status_2(cli: Cli, key: str, content: bytes) -> None:
    (cli.folder / "garbage").write_bytes(content)
    cli.write("vm.toml", ["[vm]", f'name = "garbage-{key}"', "[boot]", f'{key} = "garbage"'])

    done = cli.run("up")

    assert (done.returncode, done.stdout) == (2, "")
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert [line.startswith(f"error: vm.toml:4: boot.{key}: ") for line in lines] == [True]
    assert "Traceback" not in done.stderr
