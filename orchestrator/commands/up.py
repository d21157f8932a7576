"""``up``: start a VM, or take over one whose orchestrator died; join it, or leave it in the background."""

from __future__ import annotations

import argparse
import json
import logging
import os
import sys
from pathlib import Path

from orchestrator import config as vm_config
from orchestrator import launch, leftovers, lock, plan, report
from orchestrator.config import Config
from orchestrator.console import Terminal
from orchestrator.launch import Running
from orchestrator.record import Record
from protocol.errors import ConfigError, HostError
from protocol.names import Runtime

logger = logging.getLogger(__name__)


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "up",
        help="start a VM and join its console",
        description="Start the VM of FILE (default: vm.toml here, else a demo) and join this terminal to its console. "
        "Ctrl-] ends the VM: the guest is asked to power down; once more ends it at once. "
        "The command ends with the guest's exit status.",
    )
    parser.add_argument("file", nargs="?", metavar="FILE", type=Path, help="vm.toml, or a folder with one")
    parser.add_argument("-d", "--detach", action="store_true", help="leave it running in the background")
    parser.add_argument("--wait", action="store_true", help="like -d, but return when the guest runs")
    parser.add_argument("--wait-timeout", metavar="SECS", type=float, default=120.0, help="default: %(default)s")
    parser.add_argument("--name", help="name of the VM, instead of vm.name")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="such as vm.memory=1G")
    parser.add_argument("--dry-run", action="store_true", help="print what would be started as JSON, start nothing")
    parser.add_argument(
        "--debug", metavar="DEV", action="append", default=[], help="leave this device to you, under Python's debugger"
    )
    parser.add_argument("--restore", metavar="NAME", help="go on from this snapshot (`orchestrator snapshot list`)")
    parser.add_argument(
        "--stop-at-start", action="store_true", help="hold the guest before its first instruction, for a debugger"
    )
    parser.set_defaults(run=run)


def parse(words: list[str]) -> argparse.Namespace:
    """Return the options of ``orchestrator up`` with these words."""
    top = argparse.ArgumentParser()
    add(top.add_subparsers(dest="verb"))
    return top.parse_args(["up", *words])


def file_meant(given: Path | None) -> Path | None:
    """Return the file a command means: the given one, that of the given folder, vm.toml here, or none."""
    if given is not None:
        return given / vm_config.FILE_NAME if os.path.isdir(given) else given
    here = Path(vm_config.FILE_NAME)
    return here if here.is_file() else None


def run(options: argparse.Namespace) -> int:
    """Run the command."""
    config = vm_config.load(file_meant(options.file), options.set, name=options.name)
    known = [device.id for device in config.devices]
    for name in options.debug:
        if name not in known:
            raise ConfigError(f"--debug {name}: no such device", hint=f"devices: {', '.join(known) or 'none'}")
    from guest import elf_path

    runtime = Runtime(config.name)
    planned = plan.make(
        config,
        runtime,
        guest=elf_path(),
        debug=frozenset(options.debug),
        stop_at_start=options.stop_at_start,
        state=_checked_snapshot(runtime, options.restore) if options.restore else None,
    )
    if options.dry_run:
        sys.stdout.write(json.dumps(planned.to_json(), indent=2) + "\n")
        return 0
    os.umask(0o077)
    launch.unwind_on_signals()
    held = lock.Lock.take(runtime)
    if options.detach or options.wait:
        from orchestrator.commands.background import detach

        return detach(config, planned, runtime, held, wait=options.wait, timeout_s=options.wait_timeout)
    terminal = Terminal()
    if options.stop_at_start:
        terminal.say(f"held before the first instruction: `orchestrator gdb {config.name}`, or `resume`, lets it go")
    running = bring_up(config, planned, runtime, held, report.Spoken(terminal.say))
    try:
        from orchestrator.commands.foreground import attend

        return attend(running, config, terminal)
    finally:
        running.end()


def _checked_snapshot(runtime: Runtime, name: str) -> Path:
    from orchestrator import snapshots

    folder = snapshots.find(runtime, name)
    snapshots.Manifest.read(folder).check(folder)
    return folder


def bring_up(config: Config, planned: plan.Plan, runtime: Runtime, held: lock.Lock, audience: report.Report) -> Running:
    """Start the VM, or take it over if its machine still runs.

    Raises:
        BusvmError: it cannot be started; nothing is left of it then.
    """
    earlier = Record.read(runtime)
    if earlier is not None and earlier.entries[plan.CPU].is_alive():
        if earlier.plan.file != planned.file:
            held.release()
            source = earlier.plan.file or "no file"
            raise HostError(
                f"a VM named {runtime.vm!r} runs already, started from {source}, pid {earlier.entries[plan.CPU].pid}",
                hint=f"`orchestrator down {runtime.vm}` ends it; --name gives this one another name",
            )
        adopted = launch.found(earlier, runtime, held)
        if adopted is not None:
            adopted.fork()
            report.log_to_file(runtime)
            audience.say(f"VM {runtime.vm!r} runs already and nobody looked after it: taken over")
            if not earlier.plan.is_of(planned):
                audience.say("its configuration has changed since: `down` and `up` apply that")
            return adopted
    try:
        removed = leftovers.clean(runtime, earlier)
        launch.rotate_logs(planned)
        report.log_to_file(runtime)
        if removed:
            logger.warning("removed what a killed VM had left: %s", ", ".join(removed))
        return launch.fresh(planned, runtime, held)
    except OSError as error:
        leftovers.remove_files(runtime)
        raise HostError(f"cannot prepare {runtime.folder}: {error}") from error
    except BaseException:
        leftovers.remove_files(runtime)
        raise
