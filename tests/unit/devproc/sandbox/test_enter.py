"""A process in its sandbox tries what it may not, on this host's own kernel."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from devproc.network import options as network
from devproc.sandbox import enter, landlock, seccomp
from devproc.sandbox.needs import Needs

LANDLOCK = landlock.version(landlock.libc_syscall())
SECCOMP = seccomp.library() is not None
needs_landlock = pytest.mark.skipif(not LANDLOCK, reason="this kernel has no Landlock")
needs_seccomp = pytest.mark.skipif(not SECCOMP, reason="no libseccomp")

SCRIPT = """
import ctypes, os, resource, signal, socket, subprocess, sys, threading
from pathlib import Path
from devproc.sandbox.enter import enter
from devproc.sandbox.needs import Needs
folder = Path(sys.argv[1])
image = open(folder / "image", "r+b")
free = 0
with socket.socket() as s:
    s.bind(("127.0.0.1", 0))
    free = s.getsockname()[1]
unix = socket.socket(socket.AF_UNIX)
entered = enter({needs})
{action}
"""


def run(folder: Path, action: str, needs: str = "Needs()") -> subprocess.CompletedProcess[str]:
    """Do something in a sandbox."""
    (folder / "image").write_bytes(bytes(512))
    (folder / "other").write_text("a secret")
    script = SCRIPT.format(needs=needs, action=action)
    return subprocess.run(
        [sys.executable, "-c", script, folder], capture_output=True, text=True, timeout=60, check=False
    )


@needs_landlock
@pytest.mark.parametrize(
    "action",
    [
        "open(folder / 'other')",
        "open(folder / 'image')",
        "open(folder / 'new', 'w')",
        "(folder / 'other').unlink()",
        "(folder / 'other').rename(folder / 'third')",
        "(folder / 'link').symlink_to('other')",
        "(folder / 'sub').mkdir()",
        "os.truncate(folder / 'other', 0)",
        "unix.bind(str(folder / 'sock'))",
        "os.listdir(folder)",
        "open('/etc/passwd')",
        "open('/dev/shm/new', 'w')",
        "open('/proc/1/stat')",
        "open('/proc/self/mem', 'r+b')",
        "os.open('/dev/tty', os.O_RDWR)",
    ],
)
def test_no_file_is_opened_made_or_taken_away(tmp_path: Path, action: str) -> None:
    done = run(tmp_path, action)
    assert "PermissionError" in done.stderr or "No such device" in done.stderr, done.stderr
    assert (tmp_path / "other").read_text() == "a secret"


@needs_seccomp
@pytest.mark.parametrize(
    "action",
    [
        "os.fork()",
        "os.execv(sys.executable, [sys.executable])",
        "subprocess.run(['true'])",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.kill(os.getppid(), 0)",
        "signal.pidfd_send_signal(os.pidfd_open(os.getppid()), 0)",
        "resource.prlimit(os.getppid(), resource.RLIMIT_NOFILE)",
        "os.chmod(folder / 'other', 0o777)",
        "os.setxattr(folder / 'other', 'user.x', b'')",
        "os.utime(folder / 'other')",
        "os.setuid(os.getuid())",
        "socket.socket(socket.AF_INET)",
        "socket.socket(socket.AF_INET6)",
        "socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)",
        "socket.socket(socket.AF_VSOCK)",
        "__import__('fcntl').ioctl(0, 0x5412, b'x')",
    ],
)
def test_no_program_process_identity_or_network_is_had(tmp_path: Path, action: str) -> None:
    done = run(tmp_path, action)
    assert "PermissionError" in done.stderr, done.stderr


@needs_seccomp
@pytest.mark.parametrize("call", ["ptrace", "process_vm_readv", "mount", "unshare", "setns"])
def test_what_no_device_does_ends_it(tmp_path: Path, call: str) -> None:
    done = run(tmp_path, f"ctypes.CDLL(None).{call}(0, 0, 0, 0, 0, 0)")
    assert done.returncode == -signal.SIGSYS, done.stderr


def test_what_is_open_serves_and_python_lives(tmp_path: Path) -> None:
    action = """
image.seek(0); image.write(b"x" * 512); image.flush(); os.ftruncate(image.fileno(), 4096)
thread = threading.Thread(target=lambda: __import__("sqlite3")); thread.start(); thread.join()
import decimal, zmq, asyncio
zmq.Context().socket(zmq.PAIR).connect("ipc:///nowhere")
asyncio.run(asyncio.sleep(0))
os.kill(os.getpid(), 0); os.memfd_create("x"); os.readlink("/proc/self/fd/0"); open("/proc/self/fdinfo/0").read()
open("/dev/null", "r+b"); open("/dev/urandom", "rb").read(1); ctypes.CDLL("libc.so.6")
print(resource.getrlimit(resource.RLIMIT_CORE), [l for l in open("/proc/self/status") if l[:6] in ("NoNewP", "CapEff")])
"""
    done = run(tmp_path, action)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "(0, 0) ['CapEff:\\t0000000000000000\\n', 'NoNewPrivs:\\t1\\n']\n"
    assert (tmp_path / "image").stat().st_size == 4096


@needs_landlock
def test_what_is_named_can_be_opened(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a").touch()
    needs = "Needs(read=(folder / 'folder',), write=(folder / 'other',), processes=True)"
    done = run(
        tmp_path,
        "open(folder / 'folder' / 'a'); open(folder / 'other', 'w').write('x'); open('/proc/1/stat').read()\n"
        "try:\n    open('/proc/%d/environ' % os.getppid()).read()\nexcept PermissionError:\n    print('not that')",
        needs,
    )
    assert done.stdout == "not that\n", done.stderr
    assert (tmp_path / "other").read_text() == "x"


@pytest.mark.skipif(LANDLOCK < 4, reason="this kernel's Landlock has no ports")
def test_tcp_leads_to_the_named_port_alone(tmp_path: Path) -> None:
    action = """
for port in (free, free % 60000 + 1):
    try:
        socket.create_connection(("127.0.0.1", port))
    except OSError as error:
        print(type(error).__name__)
try:
    socket.socket().bind(("127.0.0.1", free))
except OSError as error:
    print(type(error).__name__)
"""
    done = run(tmp_path, action, "Needs(internet=True, tcp_connect=(free,))")
    assert done.stdout.split() == ["ConnectionRefusedError", "PermissionError", "PermissionError"], done.stderr


def test_who_starts_programs_can(tmp_path: Path) -> None:
    done = run(tmp_path, "subprocess.run(['cat', folder / 'other'], check=True)", "Needs(programs=True)")
    assert done.stdout == "a secret", done.stderr


def test_threads_that_are_outside_are_told(tmp_path: Path) -> None:
    done = run(tmp_path, "print(entered)", "threading.Thread(target=signal.pause, daemon=True).start() or Needs()")
    assert "1 threads that it had started are outside" in done.stdout, done.stderr


def test_a_host_without_says_so_once(tmp_path: Path) -> None:
    action = "print(entered)"
    needs = (
        "__import__('devproc.sandbox.landlock').sandbox.landlock.__dict__.update(version=lambda _call: 0) or "
        "__import__('devproc.sandbox.seccomp').sandbox.seccomp.__dict__.update(LIBRARY='none') or Needs()"
    )
    done = run(tmp_path, action, needs)
    assert done.stdout.startswith("landlock=0 seccomp=0 (files are not restricted"), done.stderr
    assert "apt install libseccomp2" in done.stdout


def test_it_takes_no_time_that_matters(tmp_path: Path) -> None:
    script = (
        "import argparse, logging, os, socket, sys, time, zmq; from devproc.sandbox.needs import Needs\n"
        "from devproc.sandbox.enter import enter; began = time.process_time(); enter(Needs())\n"
        "print(time.process_time() - began)"
    )
    env = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path), "PYTHONDONTWRITEBYTECODE": ""}

    def seconds() -> float:
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, env=env)
        return float(done.stdout)

    seconds()  # which compiles the modules
    times = [seconds() for _ in range(5)]
    assert min(times) < 0.010, times


def test_the_variable_is_the_option_of_who_is_started_by_the_orchestrator(monkeypatch: pytest.MonkeyPatch) -> None:
    def parsed(*words: str) -> bool:
        parser = argparse.ArgumentParser()
        enter.add_option(parser)
        return bool(parser.parse_args(words).sandbox)

    monkeypatch.delenv(enter.VARIABLE, raising=False)
    assert (parsed(), parsed("--sandbox")) == (False, True)
    monkeypatch.setenv(enter.VARIABLE, "on")
    assert (parsed(), parsed("--no-sandbox")) == (True, False)


def test_doctor_is_told_what_there_is() -> None:
    done = subprocess.run([sys.executable, "-m", "devproc.sandbox"], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"landlock": LANDLOCK, "seccomp": SECCOMP}


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--backend", "hub", "--hub", "x"], Needs()),
        (["--backend", "tap", "--interface", "tap0"], Needs()),
        (["--backend", "dgram", "--local", "127.0.0.1:1", "--remote", "127.0.0.1:2"], Needs()),
        (["--backend", "stream", "--address", "127.0.0.1:7", "--server"], Needs()),
        (["--backend", "stream", "--address", "unix:x"], Needs()),
        (["--backend", "stream", "--address", "127.0.0.1:7"], Needs(internet=True, tcp_connect=(7,))),
    ],
)
def test_a_network_needs_what_it_has_not_open(words: list[str], expected: Needs) -> None:
    parser = argparse.ArgumentParser()
    network.add_arguments(parser)
    assert network.needs(parser.parse_args(words)) == expected


def test_networks_with_programs_of_their_own_say_so(monkeypatch: pytest.MonkeyPatch) -> None:
    parser = argparse.ArgumentParser()
    network.add_arguments(parser)

    def needs(*words: str) -> Needs:
        return network.needs(parser.parse_args(words))

    assert needs("--backend", "passt").programs
    monkeypatch.setattr("devproc.network.slirp_library.available", lambda: True)
    user = needs("--backend", "user", "--tftp", "/srv", "--guest-forward", "tcp:10.0.2.9:80:unix:/x")
    assert (user.programs, user.internet, user.tcp_connect, user.read[0]) == (False, True, None, Path("/srv"))
    for target in ("127.0.0.1:80", "cmd:cat", "cat"):
        assert needs("--backend", "user", "--guest-forward", f"tcp:10.0.2.9:80:{target}").programs
    monkeypatch.setattr("devproc.network.slirp_library.available", lambda: False)
    assert needs("--backend", "user").programs
