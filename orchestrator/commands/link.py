"""``link``: plugs the cable of a network card in and out."""

from __future__ import annotations

import argparse

from orchestrator import client, output, vms
from orchestrator.client import Client
from protocol import names
from protocol.bus import BusError
from protocol.errors import BusvmError, NotFound

NET1 = "org.busvm.Net1"
_HINT = "`orchestrator ps` says what is"
_ACTIONS = ("up", "down", "announce")


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "link",
        help="plug the cable of a network card in or out",
        description="Plug the cable of a network card in (`up`) or out (`down`), have the guest make itself known on "
        "its network (`announce`), or say how it stands.",
    )
    parser.add_argument("names", nargs="+", metavar="[VM] DEV [up|down|announce]", help="the card, and what to do")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it, or print how the link stands."""
    words = list(options.names)
    action = words.pop() if len(words) > 1 and words[-1] in _ACTIONS else ""
    vm, devices = vms.split(words)
    if len(devices) != 1:
        raise NotFound("the link of which card?", hint=f"`orchestrator ps {vm.name}` lists the devices")
    vms.device_of(vm, devices[0])
    assert vm.record is not None
    if vm.record.plan.process(devices[0]).slot is None:
        raise BusvmError(f"{devices[0]} is no network card", hint=_HINT)
    said = client.ask(vm.runtime, lambda connected: _ask(connected, devices[0], action))
    if said:
        output.line(said)
    return 0


async def _ask(connected: Client, device: str, action: str) -> str:
    place = names.device_name(device), names.device_path(device)
    try:
        if not action:
            shown = await connected.properties(*place, NET1)
            return f"{device}: {'up' if shown['Link'] else 'down'}, {shown['Mac']}, {shown['Network']}"
        if action == "announce":
            await connected.bus.call(*place, NET1, "Announce", "", [], timeout_s=5.0)
        else:
            await connected.bus.call(*place, NET1, "SetLink", "b", [action == "up"], timeout_s=5.0)
    except BusError as error:
        if "Unknown" in error.name:
            raise BusvmError(f"{device} is no network card", hint=_HINT) from error
        raise
    return ""
