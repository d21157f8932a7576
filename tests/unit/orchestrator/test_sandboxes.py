"""Who is told to restrict itself, and which sockets are taken away afterwards."""

from __future__ import annotations

import socket
import subprocess
from pathlib import Path

import pytest

from orchestrator import bus_daemon, config, plan, record, sandboxes, spawn
from orchestrator.commands import doctor
from protocol.names import Runtime
from tests.conftest import VM

FILE = """
[[device]]
id = "rng0"
type = "virtio-rng"
[[device]]
id = "free"
type = "virtio-rng"
sandbox = false
[[device]]
id = "yours"
type = "virtio-rng"
start = "attach"
[[device]]
id = "debugged"
type = "virtio-rng"
[[device]]
id = "con"
type = "virtio-console"
socket = "con.sock"
ports = ["a=a.sock"]
[[device]]
id = "net"
type = "virtio-net"
backend = "stream"
address = "unix:net.sock"
server = true
[[device]]
id = "user"
type = "virtio-net"
backend = "user"
forward = ["unix:fwd.sock:22", "tcp::2222:22"]
[[device]]
id = "remote"
type = "vhost-user"
device = "blk"
socket = "theirs.sock"
[[hub]]
id = "lan"
listen = ["unix:hub.sock", "127.0.0.1:5000"]
[[service]]
id = "shm"
type = "ivshmem-server"
size = "1M"
socket = "shm.sock"
"""


@pytest.fixture
def made(tmp_path: Path) -> plan.Plan:
    """Return a plan."""
    file = tmp_path / "vm.toml"
    file.write_text(FILE)
    return plan.make(config.load(file), Runtime(VM), guest=tmp_path / "guest", debug=["debugged"])


def test_all_are_told_but_those_that_a_person_starts(made: plan.Plan) -> None:
    told = {process.id for process in made.processes if process.env.get(sandboxes.VARIABLE) == "on"}
    assert told == {"rng0", "con", "net", "user", "remote", "lan", "shm"}


def test_sockets_outside_of_the_folder_are_known(made: plan.Plan, tmp_path: Path) -> None:
    found = {process.id: [Path(path) for path in process.sockets] for process in made.processes if process.sockets}
    assert found == {
        "con": [tmp_path / "con.sock", tmp_path / "a.sock"],
        "net": [tmp_path / "net.sock"],
        "user": [tmp_path / "fwd.sock"],
        "lan": [tmp_path / "hub.sock"],
        "shm": [tmp_path / "shm.sock", tmp_path / "shm.sock.busvm"],
    }
    assert plan.Plan.from_json(made.to_json()) == made
    assert len(record.Record.new(made).sockets) == 7


def test_only_sockets_that_nobody_reads_are_abandoned(tmp_path: Path) -> None:
    paths = {name: str(tmp_path / name) for name in ("dead", "deaf", "alive", "file", "none")}
    (tmp_path / "file").touch()
    for name, kind in (("dead", socket.SOCK_STREAM), ("deaf", socket.SOCK_DGRAM)):
        with socket.socket(socket.AF_UNIX, kind) as sock:
            sock.bind(paths[name])
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(paths["alive"])
        alive.listen()
        assert [path.name for path in sandboxes.abandoned(paths.values())] == ["dead", "deaf"]


def test_an_end_by_the_sandbox_is_said() -> None:
    assert spawn.status_text(-31).startswith("was killed by SIGSYS, for it made a system call")
    assert spawn.status_text(-9) == "was killed by SIGKILL"


@pytest.mark.parametrize(
    ("output", "levels"),
    [
        ('{"landlock": 7, "seccomp": true}', ["ok", "ok"]),
        ('{"landlock": 0, "seccomp": false}', ["missing", "missing"]),
        ("", ["error"]),
    ],
)
def test_doctor_says_what_is_missing(monkeypatch: pytest.MonkeyPatch, output: str, levels: list[str]) -> None:
    done = subprocess.CompletedProcess([], 0, output, "")
    monkeypatch.setattr(doctor.subprocess, "run", lambda *_args, **_options: done)
    found = [check.level for check in doctor.look() if check.name in ("landlock", "libseccomp", "sandbox")]
    assert found == levels


def test_the_bus_gives_names_of_a_vm_alone_and_lets_nobody_listen() -> None:
    text = bus_daemon.config_text(Runtime(VM))
    assert 'eavesdrop="true"' not in text
    assert text.index('<deny own="*"/>') < text.index('<allow own="org.busvm.machine"/>')
    assert '<deny send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>' in text
    allowed = bus_daemon.config_text(Runtime(VM), monitor=True)
    assert (
        '<allow send_destination="org.freedesktop.DBus" send_interface="org.freedesktop.DBus.Monitoring"/>' in allowed
    )
