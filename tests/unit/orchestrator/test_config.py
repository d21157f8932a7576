"""vm.toml: what is wrong is said in one line with file, line and key."""

from __future__ import annotations

from pathlib import Path

import pytest

from orchestrator import config
from protocol.errors import ConfigError

DISK = '[[device]]\nid = "disk0"\ntype = "virtio-blk"\nimage = "disk.img"\n'


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "disk.img").write_bytes(bytes(512))
    (tmp_path / "Image").write_bytes(b"kernel")
    return tmp_path


def load(text: str, *settings: str) -> config.Config:
    Path("vm.toml").write_text(text)
    return config.load(Path("vm.toml"), settings)


def test_defaults_without_a_file() -> None:
    found = config.load(None)

    assert (found.name, found.memory, found.cpus, found.kernel, found.devices) == ("demo", 256 << 20, 1, None, ())


def test_values_of_a_whole_file(folder: Path) -> None:
    text = '[vm]\nname = "a"\nmemory = "1G"\n[boot]\nkernel = "Image"\ncmdline = "x=y"\n' + DISK + "readonly = true\n"

    found = load(text)

    assert (found.name, found.memory, found.cmdline) == ("a", 1 << 30, "x=y")
    assert found.kernel == folder / "Image"
    (disk,) = found.devices
    assert (disk.id, disk.start, disk.restart) == ("disk0", "auto", "on-failure")
    given = {"image": folder / "disk.img", "readonly": True, "queues": 1, "serial": ""}
    assert given.items() <= dict(disk.options).items()
    assert dict(disk.options)["cache"] == "writeback"
    assert "iops" not in dict(disk.options)


def test_paths_are_relative_to_the_file(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / "vm.toml").write_text(DISK)
    (folder / "elsewhere").mkdir()
    monkeypatch.chdir(folder / "elsewhere")

    found = config.load(Path("../vm.toml"))

    assert dict(found.devices[0].options)["image"] == folder / "disk.img"


@pytest.mark.parametrize(
    ("name", "expected"), [("vm.toml", "folder-1"), ("web.toml", "web"), ("-odd name.toml", "odd-name")]
)
def test_name_comes_from_the_file_or_its_folder(tmp_path: Path, name: str, expected: str) -> None:
    path = tmp_path / "folder 1" / name
    path.parent.mkdir()
    path.write_text("")

    assert config.load(path).name == expected


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("[vm]\nmemroy = 1\n", "vm.toml:2: vm.memroy: unknown key", "'memory'"),
        ("[vn]\n", "vm.toml:1: vn: unknown key", "'vm'"),
        ("[vm]\nmemory = true\n", 'vm.toml:2: vm.memory: must be a size such as "512M", not true or false', ""),
        ('[vm]\nmemory = "lots"\n', "vm.toml:2: vm.memory: 'lots' is no size", "512M"),
        ("[vm]\n\nmemory = 0\n", "vm.toml:3: vm.memory: 0 is too little", "32M or more"),
        ('[vm]\nmemory = "33M"\n', "vm.toml:2: vm.memory: 33M is no multiple of 2M", "32M"),
        ("[vm]\nmemory = -2097152\n", "vm.toml:2: vm.memory: -2M is too little", "32M"),
        ("[vm]\ncpus = 65\n", "vm.toml:2: vm.cpus: 65 is out of range", "64"),
        ('[vm]\ncpus = "1"\n', "vm.toml:2: vm.cpus: must be a whole number, not a text", ""),
        (
            '[vm]\nengine = "interp"\nperf_map = true\n',
            "vm.toml:3: vm.perf_map: names translated code, and the interpreter",
            "vm.engine",
        ),
        ('[vm]\ninterrupts = "plik"\n', "vm.toml:2: vm.interrupts: 'plik' is none of its values", "'plic'"),
        (
            DISK + 'cache = "writethru"\n',
            "vm.toml:5: device.cache: 'writethru' is none of its values",
            "'writethrough'",
        ),
        (DISK + 'discard = "yes"\n', "vm.toml:5: device.discard: 'yes' is none of its values", "unmap, ignore"),
        (DISK + "block-size = 513\n", "vm.toml:5: device.block-size: 513 is none of its values", "512"),
        (DISK + "iops = 0\n", "vm.toml:5: device.iops: 0 is out of range", "1 or more"),
        (DISK + 'bytes-per-second = "0"\n', "vm.toml:5: device.bytes-per-second: 0 is out of range", "1 or more"),
        (DISK + 'bytes-per-second = "fast"\n', "vm.toml:5: device.bytes-per-second: 'fast' is no size", "512M"),
        (DISK + "readonly = true\nsnapshot = true\n", "vm.toml:6: device.snapshot: excludes readonly", "untouched"),
        ('[vm]\nname = "a b"\n', "vm.toml:2: vm.name: 'a b' is no name", "letters"),
        ('[vm]\nname = "a.dev"\n', "vm.toml:2: vm.name: 'a.dev' ends in .dev", "another"),
        ('[boot]\nkernel = "Imaeg"\n', "vm.toml:2: boot.kernel: no such file: ", "'Image'"),
        ('[boot]\nkernel = "."\n', "vm.toml:2: boot.kernel: '.' is a folder", ""),
        ('[boot]\nkernel = ""\n', "vm.toml:2: boot.kernel: empty", ""),
        ("[boot]\ncmdline = 1\n", "vm.toml:2: boot.cmdline: must be a text in quotes, not a number", ""),
        ("schema = 2\n", "vm.toml:1: schema: 2 is not possible yet", "only 1"),
        ("vm = 1\n", "vm.toml:1: vm: must be a table", "[vm]"),
        ('[boot]\nfirmware = "fw"\n', "vm.toml:2: boot.firmware: no such file: ", ""),
        ("[load]\n", "vm.toml:1: load: must be a list of tables", "[[load]]"),
        ("[[load]]\n[[load]]\nfiel = 1\n", "vm.toml:3: load.fiel: unknown key", "'file'"),
        ('[[load]]\naddress = "0x1000"\n', "vm.toml:2: load.address: must be a whole number, not a text", ""),
        ("[[load]]\naddress = -1\n", "vm.toml:2: load.address: -1 is out of range", "0 or more"),
        ("[[load]]\nsize = 9\n", "vm.toml:2: load.size: 9 is out of range", "1 to 8"),
        ("[[fw-cfg]]\n", "vm.toml:1: fw-cfg.name: missing", "fw_cfg"),
        ("[device]\n", "vm.toml:1: device: must be a list of tables", "[[device]]"),
        ("[[device]]\n", "vm.toml:1: device.id: missing", "Name"),
        ('[[device]]\nid = "a"\n', "vm.toml:1: device.type: missing", "virtio-blk"),
        (
            '[[device]]\nid = "a"\ntype = "virtio-block"\n',
            "vm.toml:3: device.type: unknown type 'virtio-block'",
            "-blk",
        ),
        ('[[device]]\nid = "a"\ntype = "python:a-b"\n', "vm.toml:3: device.type: 'python:a-b' names no m", "python:"),
        ('[[device]]\nid = "a"\ntype = "python:a:"\n', "vm.toml:3: device.type: 'python:a:' names no m", "python:"),
        ('[[device]]\nid = "a"\ntype = "virtio-blk"\n', "vm.toml:1: device.image: missing", "image"),
        (DISK + "readonly = 1\n", "vm.toml:5: device.readonly: must be true or false, not a number", ""),
        (DISK + "queues = 0\n", "vm.toml:5: device.queues: 0 is out of range", "1 to 64"),
        (DISK + "queues = 1.5\n", "vm.toml:5: device.queues: must be a whole number, not a number with a point", ""),
        (DISK + 'restart = "allways"\n', "vm.toml:5: device.restart: 'allways' is none of its values", "'always'"),
        (DISK + "args = [1]\n", "vm.toml:5: device.args: must be a list of texts", ""),
        (DISK + DISK, "vm.toml:6: device.id: 'disk0' is taken", "first used at vm.toml:2"),
        (DISK.replace("disk0", "0disk"), "vm.toml:2: device.id: '0disk' is no device id", "letters"),
        (DISK.replace("disk0", "cpu"), "vm.toml:2: device.id: 'cpu' is the name of a part of every VM", "another"),
        (DISK.replace("disk.img", "disk.imgg"), "vm.toml:4: device.image: no such file: ", "'disk.img'"),
        (
            '[[device]]\nid = "a"\ntype = "python:mine"\nimage = "disk.img"\n',
            "vm.toml:4: device.image: a device of type 'python:mine' has no such key",
            "args",
        ),
        ("[vm\n", "vm.toml:1: no valid TOML: ", ""),
        ("a = \n", "vm.toml:1: no valid TOML: ", ""),
    ],
)
@pytest.mark.usefixtures("folder")
def test_bad_input_is_named_with_line_key_and_hint(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)

    assert caught.value.message.startswith(message)
    assert hint in (caught.value.hint or "")
    assert "\n" not in caught.value.message


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (DISK + "plugged = false\n", "vm.toml:5: device.plugged: only a device behind a port", 'bus = "pcie"'),
        (DISK + 'bus = "pcie"\nplugged = false\nstart = "attach"\n', "vm.toml:6: device.plugged: only", "auto"),
        ("[vm]\nhotplug-ports = 16\n" + DISK + 'bus = "pcie"\n', "vm.toml:2: vm.hotplug-ports: 17 ports", "16 at most"),
        ("[vm]\nhotplug-ports = 17\n", "vm.toml:2: vm.hotplug-ports: 17 is out of range", "0 to 16"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_ports_and_what_is_behind_them(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)
    assert caught.value.message.startswith(message)
    assert hint in str(caught.value.hint)


@pytest.mark.usefixtures("folder")
def test_a_device_is_described_by_its_keys_alone() -> None:
    found = config.described("more", "virtio-blk", ["image=disk.img", "readonly=true"])
    assert (found.id, found.bus, found.plugged) == ("more", "pcie", True)
    assert dict(found.options)["readonly"] is True
    with pytest.raises(ConfigError, match=r"^--set: device.image: no such file"):
        config.described("more", "virtio-blk", ["image=none.img"])


@pytest.mark.usefixtures("folder")
def test_more_devices_than_slots() -> None:
    text = "".join(DISK.replace("disk0", f"disk{index}") for index in range(249))

    with pytest.raises(ConfigError, match=r"vm\.toml:993: device: no slot left: 248 devices on pci at most"):
        load(text)


@pytest.mark.usefixtures("folder")
def test_set_changes_tables_and_devices() -> None:
    found = load(DISK, "vm.memory=1G", "disk0.readonly=true", "boot.cmdline=a=b c", "vm.name=n", "disk0.queues=2")

    assert (found.memory, found.cmdline, found.name) == (1 << 30, "a=b c", "n")
    assert dict(found.devices[0].options)["readonly"] is True
    assert dict(found.devices[0].options)["queues"] == 2


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("vm.memory", "--set vm.memory: not TABLE.KEY=VALUE"),
        ("memory=1", "--set memory=1: not TABLE.KEY=VALUE"),
        ("disk1.readonly=true", "--set: disk1.readonly: no table or device 'disk1'"),
        ("vm.memory=7", "--set: vm.memory: 7 is too little"),
        ("disk0.image=none.img", "--set: device.image: no such file"),
        ("disk0.imgae=disk.img", "--set: device.imgae: unknown key"),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_bad_set_says_so(setting: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(DISK, setting)

    assert caught.value.message.startswith(message)


@pytest.mark.usefixtures("folder")
def test_a_file_that_cannot_be_read() -> None:
    with pytest.raises(ConfigError, match=r"none\.toml: no such file"):
        config.load(Path("none.toml"))
    with pytest.raises(ConfigError, match="cannot read"):
        config.load(Path())
    Path("binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match="UTF-8"):
        config.load(Path("binary.toml"))


THEIRS = '[[device]]\nid = "d"\ntype = "vhost-user"\ndevice = "blk"\n'


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (THEIRS, "vm.toml:1: device.socket: missing", "or command"),
        (
            THEIRS + 'socket = "s"\ncommand = ["x", "{socket}"]\n',
            "vm.toml:6: device.command: excludes socket",
            "{socket}",
        ),
        (THEIRS + 'command = ["x"]\n', "vm.toml:5: device.command: has no {socket}", "--socket-path"),
        (THEIRS.replace('"blk"', '"bkl"') + 'socket = "s"\n', "vm.toml:4: device.device: 'bkl' is no type", "'blk'"),
        (THEIRS.replace('"blk"', '"64"') + 'socket = "s"\n', "vm.toml:4: device.device: '64' is no type", "a number"),
        (
            THEIRS + 'socket = "s"\nimage = "disk.img"\n',
            "vm.toml:6: device.image: a device of type 'vhost-user'",
            "args",
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_who_serves_a_vhost_user_device_is_clear(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(text)

    assert caught.value.message.startswith(message)
    assert hint in str(caught.value.hint)
