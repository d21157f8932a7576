"""podman with an image of busvm, in a folder of its own: for the tests of containers, and the benchmark.

    python -m tests.peers.containers FOLDER        # makes what they need, once: base, image, podman-compose
    BUSVM_CONTAINERS=FOLDER pytest -m peer tests/peers/test_containers.py

The base is Debian by debootstrap, so that no registry of images is asked. It needs root, for debootstrap and for
networks, and of Debian ``podman runc catatonit debootstrap iptables netavark aardvark-dns``.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
VARIABLE = "BUSVM_CONTAINERS"
IMAGE = "localhost/busvm"
_BASE = "localhost/busvm-base"
_SUITE = "trixie"
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
_CONF = """\
[containers]
default_ulimits = ["nofile={files}:{files}", "nproc=4096:4096"]
[engine]
runtime = "runc"
cgroup_manager = "cgroupfs"
events_logger = "file"
"""


class Podman:
    """podman whose images, containers and configuration are in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.program = folder / "podman"
        own = {name: value for name, value in os.environ.items() if name != "XDG_RUNTIME_DIR"}  # a test's own
        self.env = {**own, "CONTAINERS_CONF": str(folder / "containers.conf")}

    @classmethod
    def prepared(cls) -> Podman | None:
        """Return the one that ``BUSVM_CONTAINERS`` names, if it does."""
        given = os.environ.get(VARIABLE)
        return cls(Path(given)) if given and (Path(given) / "podman").exists() else None

    def command(self, *words: str) -> list[str]:
        """Return a command line of podman."""
        return [str(self.program), *words]

    def run(self, *words: str, check: bool = True, timeout_s: float = 120, **more: Any) -> str:
        """Run a command of podman; return what it prints."""
        done: subprocess.CompletedProcess[str] = subprocess.run(
            self.command(*words), capture_output=True, text=True, check=False, timeout=timeout_s, env=self.env, **more
        )
        assert done.returncode == 0 or not check, f"podman {' '.join(words)}: {done.stderr}"
        return done.stdout

    def compose(self, folder: Path, *words: str) -> str:
        """Run a command of podman-compose beside the compose.yaml of ``folder``."""
        program = self.folder / "venv" / "bin" / "podman-compose"
        command = [str(program), "--podman-path", str(self.program), *words]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=120, env=self.env, cwd=folder
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def containers(self) -> dict[str, tuple[str, int]]:
        """Return state and exit status of every container by name."""
        listed = json.loads(self.run("ps", "-a", "--format", "json"))
        return {one["Names"][0]: (one["State"], one["ExitCode"]) for one in listed or []}

    def until_ended(self, names: Sequence[str], timeout_s: float = 30) -> dict[str, int]:
        """Return the statuses of containers that end by themselves."""
        deadline = time.monotonic() + timeout_s
        while any(self.containers()[name][0] != "exited" for name in names):
            assert time.monotonic() < deadline, self.containers()
            time.sleep(0.2)
        return {name: self.containers()[name][1] for name in names}

    def make(self) -> None:
        """Make the base, the image and podman-compose, as far as they are not there."""
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "containers.conf").write_text(_CONF.format(files=os.sysconf("SC_OPEN_MAX")))
        storage = f"--root {self.folder}/storage --runroot {self.folder}/run --runtime runc --cgroup-manager cgroupfs"
        self.program.write_text(f'#!/bin/sh\nexec podman {storage} "$@"\n')
        self.program.chmod(0o755)
        if not self.run("images", "-q", _BASE).strip():
            _say("making a base by debootstrap")
            base = self.folder / "base"
            shutil.rmtree(base, ignore_errors=True)
            packages = "--include=python3,python3-venv,ca-certificates"
            subprocess.run(
                ["debootstrap", "--variant=minbase", packages, _SUITE, base], check=True, stdout=subprocess.DEVNULL
            )
            with subprocess.Popen(["tar", "-C", base, "-c", "."], stdout=subprocess.PIPE) as packed:
                self.run("import", "-", _BASE, stdin=packed.stdout, timeout_s=300)
            shutil.rmtree(base)
        _say("building the image")
        volume = ["-v", f"{_CERTIFICATES}:{_CERTIFICATES}:ro"] if Path(_CERTIFICATES).exists() else []
        pip = [f"--build-arg=PIP=--cert {_CERTIFICATES}"] if volume else []
        self.run(
            *("build", "--network", "host", *volume, *pip, f"--build-arg=BASE={_BASE}", "-t", IMAGE, str(ROOT)),
            timeout_s=900,
        )
        if not (self.folder / "venv").exists():
            subprocess.run([sys.executable, "-m", "venv", self.folder / "venv"], check=True)
            subprocess.run([self.folder / "venv/bin/pip", "install", "-q", "podman-compose>=1.2"], check=True)


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.peers.containers FOLDER")
    Podman(Path(sys.argv[1]).resolve()).make()
