"""The host's programs that a build runs: where they are, and what to install when they are not.

An ordinary user's ``PATH`` often lacks ``/usr/sbin``, where Debian keeps ``mke2fs`` and ``debugfs``: both are searched.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from protocol.errors import HostError

Result = subprocess.CompletedProcess[str]

PACKAGE_OF = {
    "apt-get": "apt",
    "apt-cache": "apt",
    "apt-config": "apt",
    "dpkg-deb": "dpkg",
    "mke2fs": "e2fsprogs",
    "debugfs": "e2fsprogs",
}
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")


def find(name: str) -> str:
    """Return the path of the program ``name``.

    Raises HostError with the Debian package that has it.
    """
    folders = [os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS]
    path = shutil.which(name, path=os.pathsep.join(folders))
    if path is None:
        package = PACKAGE_OF.get(name, name)
        raise HostError(
            f"the program {name} is missing",
            hint=f"on Debian and Ubuntu: apt install {package}; other hosts cannot build a Debian image",
        )
    return path


def watch(
    command: Sequence[str | os.PathLike[str]],
    on_line: Callable[[str], None],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Result:
    """Run a program and hand each line it prints, errors among them, to ``on_line`` at once."""
    program, *arguments = [os.fspath(part) for part in command]
    lines = []
    with subprocess.Popen(
        [find(program), *arguments],
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
    ) as process:
        assert process.stdout is not None
        try:
            for line in process.stdout:
                lines.append(line)
                on_line(line)
        except BaseException:
            process.terminate()  # a build that is interrupted does not wait for a download
            raise
    return Result(command, process.returncode, "".join(lines), "".join(lines))


def run(
    command: Sequence[str | os.PathLike[str]],
    *,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    stdin: str | None = None,
) -> Result:
    """Run a program to its end, with its output kept and its messages in English; the caller judges the status."""
    program, *arguments = [os.fspath(part) for part in command]
    return subprocess.run(
        [find(program), *arguments],
        env={**os.environ, "LC_ALL": "C", **(env or {})},
        cwd=cwd,
        input=stdin,
        stdin=subprocess.DEVNULL if stdin is None else None,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
