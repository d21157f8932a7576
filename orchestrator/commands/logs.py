"""``logs``: what the processes of a VM said, merged by time; they outlive the VM."""

from __future__ import annotations

import argparse
import json
import re
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from orchestrator import output, vms
from protocol.errors import NotFound
from protocol.names import VM_PATTERN, Runtime

CONSOLE = "console"
_POLL_S = 0.2
_TIME = re.compile(r"time=(\S+) ")
_JSON_TIME = re.compile(r'"time": "([^"]+)"')


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "logs",
        help="show what the processes said",
        description="Show the logs of a VM's processes, merged by time; of the last run if it does not run. "
        "The guest's console output is the process `console`, shown only when named.",
    )
    parser.add_argument("names", nargs="*", metavar="VM|PROCESS", help="a VM, then processes: bus, cpu, disk0, …")
    parser.add_argument("-f", "--follow", action="store_true", help="go on until the VM ends")
    parser.add_argument("-n", "--lines", metavar="N", type=int, help="only the last N lines")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


@dataclass(frozen=True)
class Line:
    """One line of one process."""

    process: str
    time: str
    text: str


class LogFile:
    """The lines of one file, read as they come."""

    def __init__(self, path: Path) -> None:
        self.process = path.stem
        self._path = path
        self._at = 0
        self._time = ""
        self._rest = ""

    def read(self) -> Iterator[Line]:
        """Return the new whole lines; a line without a time of its own has that of the line before."""
        try:
            with self._path.open("rb") as file:
                if file.seek(0, 2) < self._at:
                    self._at, self._rest = 0, ""  # a new run has begun
                file.seek(self._at)
                data = file.read()
        except OSError:
            return
        self._at += len(data)
        *lines, self._rest = (self._rest + data.decode(errors="replace")).split("\n")
        for text in lines:
            found = _TIME.match(text) or _JSON_TIME.search(text)
            self._time = found[1] if found else self._time
            yield Line(self.process, self._time, text.rstrip("\r"))


def merge(files: Iterable[LogFile]) -> list[Line]:
    """Return the new lines of all files in the order of their times."""
    return sorted((line for file in files for line in file.read()), key=lambda line: line.time)


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    runtime, chosen = _chosen(options.names)
    files = _files(runtime, chosen)
    lines = merge(files)
    _show(lines[-options.lines :] if options.lines else lines if options.lines is None else [], options)
    try:
        while options.follow:
            going = vms.look(runtime.vm).runs
            known = {file.process for file in files}
            files += [file for file in _files(runtime, chosen, required=False) if file.process not in known]
            _show(merge(files), options)
            if not going:
                break
            time.sleep(_POLL_S)
    except KeyboardInterrupt:
        return 0
    return 0


def _chosen(words: list[str]) -> tuple[Runtime, list[str]]:
    """Return the VM, which need not run any more, and the processes."""
    if words and VM_PATTERN.match(words[0]) and (vms.look(words[0]).runs or Runtime(words[0]).logs.is_dir()):
        return Runtime(words[0]), words[1:]
    if words and ("/" in words[0] or words[0].endswith(".toml")):
        return Runtime(vms.name_of(words[0])), words[1:]
    return Runtime(vms.default_name()), words


def _files(runtime: Runtime, chosen: list[str], *, required: bool = True) -> list[LogFile]:
    found = {path.stem: path for path in sorted(runtime.logs.glob("*.log"))} if runtime.logs.is_dir() else {}
    if required and not found:
        raise NotFound(f"there are no logs of a VM {runtime.vm!r}")
    for name in chosen if required else ():
        if name not in found:
            raise NotFound(f"VM {runtime.vm!r} has no log of {name!r}", hint=f"there are: {', '.join(found)}")
    names = chosen or [name for name in found if name != CONSOLE]
    return [LogFile(found[name]) for name in names if name in found]


def _show(lines: list[Line], options: argparse.Namespace) -> None:
    for line in lines:
        if options.json:
            output.line(json.dumps({"process": line.process, "time": line.time, "line": line.text}))
        else:
            output.line(f"{line.process:<12} | {line.text}")
    if lines:
        import sys

        sys.stdout.flush()
