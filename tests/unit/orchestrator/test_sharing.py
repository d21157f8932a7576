"""Keys of servers of shared memory and of the devices that join them, and what their processes are told."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from orchestrator import config, plan
from orchestrator.sharing import Service
from protocol.errors import ConfigError
from protocol.ivshmem_hello import checked_name
from protocol.names import Runtime

SERVICE = '[[service]]\nid = "lan"\ntype = "ivshmem-server"\nsize = "1M"\nvectors = 4\n'
DOORBELL = '[[device]]\nid = "shm0"\ntype = "ivshmem-doorbell"\n'
PLAIN = '[[device]]\nid = "shm0"\ntype = "ivshmem-plain"\n'
FLAT = '[[device]]\nid = "shm0"\ntype = "ivshmem-flat"\n'


def load(tmp_path: Path, text: str) -> config.Config:
    file = tmp_path / "vm.toml"
    file.write_text('[vm]\nname = "vm"\n' + text)
    return config.load(file)


def made(tmp_path: Path, text: str) -> plan.Plan:
    return plan.make(load(tmp_path, text), Runtime("vm"), guest=tmp_path)


def argv(tmp_path: Path, text: str, process: str = "shm0") -> tuple[str, ...]:
    return made(tmp_path, text).process(process).argv


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (SERVICE.replace('size = "1M"\n', ""), "vm.toml:3: service.size: missing"),
        (SERVICE.replace("1M", "3M"), "vm.toml:6: service.size: 3M is no power of two from 4K on (4M:"),
        (SERVICE.replace("1M", "2K"), "service.size: 2K is no power of two from 4K on (4K:"),
        (SERVICE.replace("= 4", "= 65"), "vm.toml:7: service.vectors: 65 is out of range (1 to 64)"),
        (SERVICE.replace("ivshmem-server", "hub"), "service.type: 'hub' is none of its values"),
        (SERVICE + 'memory = "a b"\n', "vm.toml:8: service.memory: 'a b' is no name of memory"),
        (SERVICE + f'socket = "{"x" * 120}"\n', "service.socket: the path is too long"),
        (SERVICE + SERVICE, "service.id: 'lan' is taken"),
        (SERVICE + '[[hub]]\nid = "lan"\n', "service.id: 'lan' is taken"),
        (SERVICE.replace("lan", "shm0") + DOORBELL + 'server = "shm0"\n', "service.id: 'shm0' is taken"),
        (SERVICE.replace("lan", "cpu"), "service.id: 'cpu' is taken"),
        (SERVICE + "colour = 1\n", "service.colour: unknown key"),
        (DOORBELL, "vm.toml:3: device.server: missing"),
        (DOORBELL + 'server = ""\n', "device.server: empty"),
        (DOORBELL + 'server = "lan"\n', "vm.toml:6: device.server: no service 'lan' ([[service]] declares one"),
        (SERVICE + DOORBELL + 'server = "len"\n', "device.server: no service 'len' (services: lan)"),
        (DOORBELL + 'server = "./s"\nmemory = "x"\n', "device.memory: a device of type 'ivshmem-doorbell' has no such"),
        (DOORBELL + 'server = "./s"\nvectors = 65\n', "device.vectors: 65 is out of range"),
        (DOORBELL + 'server = "./s"\nvectors = 0\n', "device.vectors: 0 is out of range"),
        (DOORBELL + 'server = "./s"\nsize = "3K"\n', "device.size: 3K is no power of two"),
        (DOORBELL + 'server = "./s"\nbus = "mmio"\n', "device.bus: ivshmem-doorbell is no device of mmio"),
        (DOORBELL + "server = true\n", "device.server: must be a text in quotes"),
        (SERVICE + DOORBELL + 'server = "lan"\nsize = "2M"\n', "device.size: service 'lan' has 1M (leave it out)"),
        (FLAT + 'server = "./s"\nbus = "pci"\n', "device.bus: ivshmem-flat is no device of pci (values: platform)"),
        (PLAIN, "device.memory: missing"),
        (PLAIN + 'memory = "x"\n', "device.size: missing"),
        (PLAIN + 'memory = "x"\nsize = "4K"\nserver = "./s"\n', "device.memory: excludes server"),
        (PLAIN + 'memory = "a b"\nsize = "4K"\n', "device.memory: 'a b' is no name"),
        (PLAIN + 'memory = "x"\nsize = "5K"\n', "device.size: 5K is no power of two"),
        (PLAIN + 'memory = "x"\nsize = "4K"\nreadonly = 1\n', "device.readonly: must be true or false"),
        (PLAIN + 'memory = "x"\nsize = "4K"\nvectors = 2\n', "vectors: a device of type 'ivshmem-plain' has no such"),
    ],
)
def test_what_does_not_go_together_is_said(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text)
    assert message in f"{caught.value.message} ({caught.value.hint})"


def test_a_server_is_told_where_and_how_much(tmp_path: Path) -> None:
    found = made(tmp_path, SERVICE)
    process = found.process("lan")
    assert (process.type, process.restart, process.serves) == ("ivshmem-server", "always", "service")
    assert process in found.restartable
    words = process.argv
    assert words[words.index("-m") + 1] == "devproc.ivshmem.server"
    assert words[-3:] == (f"--socket={Runtime('vm').ivshmem_socket('lan')}", "--size=1048576", "--vectors=4")
    words = argv(tmp_path, SERVICE + 'socket = "s"\nmemory = "kept"\n', "lan")
    assert (f"--socket={tmp_path}/s" in words, words[-1]) == (True, "--memory=kept")
    assert f"--link={Runtime('vm').ivshmem_socket('lan')}" in words  # where another VM's VM/lan looks


def test_it_is_started_before_the_devices(tmp_path: Path) -> None:
    order = [process.id for process in made(tmp_path, DOORBELL + 'server = "lan"\n' + SERVICE).processes]
    assert order == ["bus", "cpu", "lan", "shm0"]


def test_a_device_finds_its_server(tmp_path: Path) -> None:
    own = argv(tmp_path, SERVICE + DOORBELL + 'server = "lan"\nreadonly = true\n')
    assert own[own.index("-m") + 1] == "devproc.ivshmem.doorbell"
    socket = Runtime("vm").ivshmem_socket("lan")
    assert own[-5:] == (f"--server={socket}", "--name=vm.shm0", "--size=1048576", "--vectors=4", "--readonly")
    given = argv(tmp_path, SERVICE + 'socket = "s"\n' + DOORBELL + 'server = "lan"\nvectors = 2\n')
    assert given[-4:] == (f"--server={tmp_path}/s", "--name=vm.shm0", "--size=1048576", "--vectors=2")
    other = argv(tmp_path, DOORBELL + 'server = "other/lan"\n')
    assert other[-2:] == (f"--server={Runtime('other').ivshmem_socket('lan')}", "--name=vm.shm0")
    path = argv(tmp_path, DOORBELL + 'server = "./some/socket"\nsize = "1M"\n')
    assert path[-3:] == (f"--server={tmp_path}/some/socket", "--name=vm.shm0", "--size=1048576")


def test_a_device_without_doorbells_has_memory_or_a_server(tmp_path: Path) -> None:
    assert argv(tmp_path, PLAIN + 'memory = "/x/y"\nsize = "8K"\n')[-2:] == ("--memory=/x/y", "--size=8192")
    words = argv(tmp_path, SERVICE + PLAIN + 'server = "lan"\n')
    assert words[-2:] == ("--name=vm.shm0", "--size=1048576")


def test_a_device_without_pci_is_on_the_platform_bus(tmp_path: Path) -> None:
    found = load(tmp_path, SERVICE + FLAT + 'server = "lan"\n').devices[0]
    assert found.bus == "platform"
    assert "--transport=platform" in argv(tmp_path, SERVICE + FLAT + 'server = "lan"\n')


def test_a_device_that_comes_later_finds_the_servers_of_the_running_vm(tmp_path: Path) -> None:
    again = plan.Plan.from_json(json.loads(json.dumps(made(tmp_path, SERVICE + 'socket = "s"\n').to_json())))
    assert again.services == (Service("lan", "ivshmem-server", 1 << 20, 4, "", f"{tmp_path}/s"),)
    device = config.described("later", "ivshmem-doorbell", ["server=lan"])
    (process,) = plan.added(device, Runtime("vm"), tmp_path, again.services)
    assert f"--server={tmp_path}/s" in process.argv
    assert "--size=1048576" in process.argv
    with pytest.raises(ConfigError, match="no service 'len'"):
        plan.added(config.described("later", "ivshmem-plain", ["server=len"]), Runtime("vm"), tmp_path)


def test_the_longest_names_fit() -> None:
    assert checked_name(b"v" * 31 + b"." + b"d" * 31)
    longest = str(Runtime("vm").ivshmem_socket("x" * 31)) + ".busvm"
    assert len(longest) <= len(Runtime("vm").link("x" * 31, 9999).removeprefix("ipc://"))
