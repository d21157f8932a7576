"""``attach`` and ``detach``: a device comes into a hot-plug port of a running VM, or leaves it."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from pathlib import Path

from orchestrator import client, config, orders, plan, plugging, vms
from orchestrator.vms import Vm
from protocol.errors import ConfigError, NotFound

_LET_GO_S = 30.0
_MARGIN_S = 30.0  # for processes to end, and the machine to answer


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "attach",
        help="plug a device into a running VM",
        description="Start a device and plug it into a hot-plug port: one of vm.toml that is not plugged in, or with "
        "--type another, for which vm.hotplug-ports has left a port empty. Returns when it is there.",
    )
    add_names(parser)
    parser.add_argument("--type", metavar="TYPE", help="type of a device that vm.toml does not declare")
    parser.add_argument(
        "--set", metavar="KEY=VALUE", action="append", default=[], help="a key of it, such as image=data.img"
    )
    parser.set_defaults(run=run_attach)
    parser = verbs.add_parser(
        "detach",
        help="unplug a device from a running VM",
        description="Take a device out of its hot-plug port once the guest has let go of it, and end its process. A "
        "guest with a hot-plug driver is asked to; in one without, remove the device through sysfs first.",
    )
    add_names(parser)
    parser.add_argument("--force", action="store_true", help="pull it out at once, whatever the guest does with it")
    parser.add_argument(
        "-t", "--timeout", metavar="SECS", type=float, default=_LET_GO_S, help="for the guest; default: %(default)s"
    )
    parser.set_defaults(run=run_detach)


def add_names(parser: argparse.ArgumentParser) -> None:
    """Add the device, and perhaps the VM."""
    parser.add_argument("names", nargs="+", metavar="[VM] DEV", help="the device, after the VM if several run")


def meant(words: list[str]) -> tuple[Vm, str]:
    """Return the VM and the device of ``add_names``.

    Raises:
        NotFound: there is no such VM, or none or several devices are named.
    """
    vm, devices = vms.split(words)
    if len(devices) != 1:
        raise NotFound(f"which device of {vm.name!r}?", hint=f"one of `orchestrator ps {vm.name}`")
    return vm, devices[0]


def run_attach(options: argparse.Namespace) -> int:
    """Plug a device in."""
    vm, device_id = meant(options.names)
    processes: tuple[plan.Process, ...] = ()
    if options.type is not None:
        assert vm.record is not None
        folder = vm.record.plan.process(plan.CPU).cwd or "."
        described = config.described(device_id, options.type, options.set)
        processes = plan.added(described, vm.runtime, Path(folder), vm.record.plan.services)
    elif options.set:
        raise ConfigError("--set describes a device together with --type", hint="vm.toml describes the others")
    body = {"device": device_id, "processes": [asdict(process) for process in processes]}
    orders.give(vm, plugging.ATTACH, body, timeout_s=plugging.ATTACH_S + _MARGIN_S)
    ports = client.ask(vm.runtime, lambda connected: connected.ports())
    if any(port["Device"] == device_id and not port["Driver"] for port in ports):
        sys.stderr.write("the guest has no hot-plug driver: there `echo 1 > /sys/bus/pci/rescan` finds the device\n")
    return 0


def run_detach(options: argparse.Namespace) -> int:
    """Unplug a device."""
    vm, device_id = meant(options.names)
    body = {"device": device_id, "force": options.force, "timeout": options.timeout}
    orders.give(vm, plugging.DETACH, body, timeout_s=options.timeout + _MARGIN_S)
    return 0
