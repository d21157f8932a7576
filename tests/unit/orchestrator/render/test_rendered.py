"""What is rendered of any VM: the plan's processes, nothing privileged, the host's files where they are said to be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from orchestrator import config, plan
from orchestrator.render import inside
from orchestrator.render.compose import compose
from orchestrator.render.contained import Contained, contain
from orchestrator.render.kubernetes import pod
from orchestrator.render.text import text
from protocol.errors import ConfigError

EXAMPLES = Path(__file__).parents[4] / "examples"
RENDERED = ("containers/vm", "demo", "faults", "template", "vhost-user-fs", "virtio-console")
PRIVILEGES = ("privileged", "cap_add", "devices", "hostNetwork", "hostPID", "hostIPC", "userns_mode", "add")

EVERYTHING = """
[vm]
name = "Big_One"
cpus = 2
hotplug-ports = 1
bus-monitor = true
[boot]
kernel = "a,b.bin"
cmdline = "a=$HOME $(x)"
flash1 = "vars"
[[load]]
file = "blob"
address = 0x90000000
[[fw-cfg]]
name = "opt/x"
file = "blob"
[[hub]]
id = "lan"
connect = ["192.0.2.1:5000"]
[[service]]
id = "shm"
type = "ivshmem-server"
size = "1M"
memory = "kept"
[[device]]
id = "d_0"
type = "virtio-blk"
image = "disk.img"
[[device]]
id = "D_0"
type = "virtio-blk"
image = "disk.img.2"
readonly = true
[[device]]
id = "mine"
type = "python:mine:Mine"
restart = "always"
[[device]]
id = "net"
type = "virtio-net"
backend = "user"
forward = ["tcp::2222:22", "udp:[::1]:53:[fec0::1]:53"]
pcap = "net.pcap"
tftp = "tftp"
[[device]]
id = "far"
type = "e1000e"
backend = "hub"
hub = "lan"
[[device]]
id = "peer"
type = "ivshmem-doorbell"
server = "shm"
[[device]]
id = "fs"
type = "vhost-user"
device = "fs"
tag = "x"
command = ["virtiofsd", "--socket-path={socket}", "--shared-dir={folder}"]
"""


def contained(folder: Path, body: str, *, publish: bool = True) -> Contained:
    """Return a VM whose files are in ``folder``."""
    for name in ("a,b.bin", "vars", "blob", "disk.img", "disk.img.2"):
        (folder / name).touch()
    (folder / "tftp").mkdir(exist_ok=True)
    (folder / "vm.toml").write_text(body)
    return contain(config.load(folder / "vm.toml"), publish=publish)


def places(found: Contained, name: str) -> dict[str, bool]:
    """Return where the mounts of a process are, and whether it may write there."""
    return {str(mount.place): mount.writable for mount in found.container(name).mounts}


def keys(value: Any) -> set[str]:
    """Return every key anywhere in ``value``."""
    if isinstance(value, dict):
        return {*value, *(key for inner in value.values() for key in keys(inner))}
    return {key for inner in value for key in keys(inner)} if isinstance(value, list) else set()


def test_each_process_is_given_what_its_command_line_names(tmp_path: Path) -> None:
    found = contained(tmp_path, EVERYTHING)

    assert places(found, "cpu") == {"/vm/a,b.bin": False, "/vm/blob": False, "/vm/vars": True}
    assert places(found, "d_0") == {"/vm/disk.img": True}
    assert places(found, "D_0") == {"/vm/disk.img.2": False}
    assert places(found, "mine") == {"/vm": False}
    assert places(found, "net") == {"/vm": True, "/vm/tftp": False}
    assert places(found, "fs.backend") == {"/vm": True}
    assert not any(found.container(name).mounts for name in ("bus", "far", "peer", "lan", "shm", "fs"))


def test_the_plan_is_that_of_up(tmp_path: Path) -> None:
    found = contained(tmp_path, EVERYTHING)
    direct = plan.make(config.load(tmp_path / "vm.toml"), inside.Inside("Big_One"), guest=inside.GUEST)

    for ours, theirs in zip(found.containers, direct.processes, strict=True):
        if ours.id not in ("bus", "fs.backend", "net"):
            moved = [word.replace(str(tmp_path), "/vm") for word in theirs.argv[1:]]
            assert (ours.id, list(ours.argv)) == (theirs.id, ["python", *moved])
    assert found.container("fs.backend").argv[4:] == (
        *("--vm", "Big_One", "--", "virtiofsd"),
        *("--socket-path=/run/busvm/busvm/Big_One/vhost.fs", "--shared-dir=/vm"),
    )
    assert found.container("bus").argv[-1] == "--monitor"
    assert found.container("d_0").environment["BUSVM_SANDBOX"] == "on"
    assert "PYTHONPATH" not in found.container("d_0").environment


def test_only_networks_have_one_and_their_forwards_are_led_out(tmp_path: Path) -> None:
    found = contained(tmp_path, EVERYTHING)
    services = compose(found, image="i", user=7, folder=tmp_path)["services"]

    assert {name for name, s in services.items() if s.get("network_mode") != "none"} == {"net", "lan"}
    assert services["net"]["ports"] == ["127.0.0.1:2222:2222/tcp", "[::1]:53:53/udp"]
    assert "--forward=tcp:0.0.0.0:2222:22" in services["net"]["command"]
    assert "--forward=tcp::2222:22" in contained(tmp_path, EVERYTHING, publish=False).container("net").argv


def test_compose_is_nothing_privileged_and_read_back_as_it_was(tmp_path: Path) -> None:
    value = compose(contained(tmp_path, EVERYTHING), image="i", user=7, folder=tmp_path)

    assert yaml.safe_load(text(value, "note")) == value
    assert not keys(value) & set(PRIVILEGES)
    assert value["name"] == "busvm-big_one"
    for name, service in value["services"].items():
        assert (service["user"], service["read_only"], service["cap_drop"]) == ("7:7", True, ["ALL"])
        assert service["security_opt"] == ["no-new-privileges"]
        assert service.get("pid") == (None if name == "bus" else "container:busvm-big_one-bus")
    assert "--cmdline=a=$$HOME $$(x)" in value["services"]["cpu"]["command"]
    restarts = {name: service["restart"] for name, service in value["services"].items()}
    assert restarts["bus"] == restarts["cpu"] == "no"
    assert restarts["d_0"] == "on-failure"
    assert restarts["fs.backend"] == restarts["mine"] == "always"


def test_a_pod_is_one_plan_and_nothing_privileged(tmp_path: Path) -> None:
    value = pod(contained(tmp_path, EVERYTHING, publish=False), image="i", user=7, claim=None)

    assert yaml.safe_load(text(value, "note")) == value
    assert not keys(value) & set(PRIVILEGES)
    spec = value["spec"]
    assert (value["kind"], value["metadata"]["name"]) == ("Pod", "big-one")
    assert (spec["shareProcessNamespace"], spec["restartPolicy"]) == (True, "OnFailure")
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    names = [container["name"] for container in spec["containers"]]
    assert names == ["bus", "cpu", "lan", "shm", "fs-backend", "d-0", "d-0-2", "mine", "net", "far", "peer", "fs"]
    assert "--fail-together" in spec["containers"][0]["command"]
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
    memory = volumes["memory"]["emptyDir"]
    assert memory == {"medium": "Memory", "sizeLimit": f"{256 + 64 + 1}Mi"}
    for container in spec["containers"]:
        context = container["securityContext"]
        assert (context["allowPrivilegeEscalation"], context["capabilities"]) == (False, {"drop": ["ALL"]})
        assert {mount["name"] for mount in container["volumeMounts"]} <= set(volumes)
    disk = next(container for container in spec["containers"] if container["name"] == "d-0")
    mount = next(mount for mount in disk["volumeMounts"] if mount["mountPath"] == "/vm/disk.img")
    assert volumes[mount["name"]]["hostPath"] == {"path": str(tmp_path / "disk.img"), "type": "File"}
    assert "--cmdline=a=$HOME $$(x)" in spec["containers"][1]["command"]


def test_a_pod_takes_files_from_a_claim(tmp_path: Path) -> None:
    body = EVERYTHING.replace('restart = "always"', "")
    spec = pod(contained(tmp_path, body, publish=False), image="i", user=7, claim="images")["spec"]

    assert {"name": "images", "persistentVolumeClaim": {"claimName": "images"}} in spec["volumes"]
    disk = next(container for container in spec["containers"] if container["name"] == "d-0")
    assert {"name": "images", "mountPath": "/vm/disk.img", "subPath": "disk.img"} in disk["volumeMounts"]
    assert "hostPath" not in keys(spec)


def test_a_vm_whose_devices_are_not_restarted_is_not_either(tmp_path: Path) -> None:
    body = '[[device]]\nid = "d"\ntype = "virtio-rng"\nrestart = "no"\n'
    value = pod(contained(tmp_path, body, publish=False), image="i", user=7, claim=None)

    assert value["spec"]["restartPolicy"] == "Never"
    assert "--fail-together" not in value["spec"]["containers"][0]["command"]


@pytest.mark.parametrize("name", [str(path.relative_to(EXAMPLES)) for path in sorted(EXAMPLES.rglob("*.toml"))])
@pytest.mark.parametrize("publish", [True, False])
def test_examples(name: str, publish: bool, tmp_path: Path) -> None:
    file = tmp_path / "examples" / name
    file.parent.mkdir(parents=True)
    file.write_text((EXAMPLES / name).read_text())
    (tmp_path / "images" / "debian").mkdir(parents=True)
    for needed in ("disk.raw", "images/debian/vmlinuz", "images/debian/initrd.img", "images/debian/root.ext4"):
        (tmp_path / needed).touch()
    loaded = config.load(file)

    if name.removesuffix(".toml") not in RENDERED:
        with pytest.raises(ConfigError, match=r"examples/vhost-user-blk.toml:\d+: device.command: 'driver=file,"):
            contain(loaded, publish=publish)
        return
    found = contain(loaded, publish=publish)
    value: Any = compose(found, image="i", user=7, folder=tmp_path) if publish else None
    value = value or pod(found, image="i", user=7, claim=None)
    assert yaml.safe_load(text(value, "")) == value
    assert not keys(value) & set(PRIVILEGES)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('[[device]]\nid = "d"\ntype = "virtio-rng"\nstart = "attach"', "4: device.start: nobody is there"),
        ('[[device]]\nid = "d"\ntype = "virtio-rng"\nspare = true', "4: device.spare: the engine starts"),
        ('[[device]]\nid = "d"\ntype = "virtio-rng"\nbus = "pcie"\nplugged = false', "5: device.plugged: only"),
        ('[[device]]\nid = "d"\ntype = "virtio-rng"\nsource = "/dev/zero"', "4: device.source: /dev/zero is a device"),
        ('[[device]]\nid = "d"\ntype = "virtio-rng"\nargs = ["--x=/y"]', "4: device.args: '--x=/y' is at a place"),
        (
            '[[device]]\nid = "n"\ntype = "virtio-net"\nbackend = "tap"\ninterface = "tap0"',
            "4: device.backend: 'tap' needs a privilege",
        ),
        (
            '[[device]]\nid = "n"\ntype = "virtio-net"\nbackend = "hub"\nhub = "other/lan"',
            "5: device.hub: 'other/lan' is another VM's",
        ),
        (
            '[[device]]\nid = "n"\ntype = "virtio-net"\nbackend = "user"\nforward = ["unix:a.sock:22"]',
            "5: device.forward: 'unix:a.sock:22' is at a place of this host",
        ),
        ('[[hub]]\nid = "lan"\nlisten = ["0.0.0.0:5000"]', "3: hub.listen: '0.0.0.0:5000' is at a place"),
        (
            '[[service]]\nid = "s"\ntype = "ivshmem-server"\nsize = "1M"\nsocket = "s.sock"',
            r"5: service.socket: '.*/s.sock' is at a place",
        ),
    ],
)
def test_what_has_no_place_in_containers_is_named(body: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=f"vm.toml:{message}") as refused:
        contained(tmp_path, body + "\n")
    assert refused.value.hint
