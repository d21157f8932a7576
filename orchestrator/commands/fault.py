"""``fault``: has a device of a running VM err where its driver's author wants it to."""

from __future__ import annotations

import argparse

from orchestrator import client, output, vms
from orchestrator.client import Client
from protocol import names
from protocol.bus import BusError, Variant
from protocol.errors import BusvmError, ConfigError, NotFound

FAULT1 = "org.busvm.Fault1"
_ACTIONS = ("add", "list", "remove", "clear", "thaw")
_EPILOG = """\
a rule is a kind and words, in any order (docs/faults.md):
  kind       delay ms=N | drop | error [status=NAME] | corrupt [bits=N|bytes=N] | duplicate | freeze [ms=N] | kill
  where      request (default), queue=N|ROLE, FIELD=VALUE FIELD>=VALUE … of its header
             read=REGISTER, write=REGISTER, interrupt[=VECTOR|wire], doorbell[=N]
  which      nth=N, every=N, first=N, probability=P seed=N; count=N or once at most

  orchestrator fault demo disk0 add error type=OUT nth=3
  orchestrator fault demo disk0 add delay queue=0 'sector>=2048' ms=250 every=10
"""


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verb."""
    parser = verbs.add_parser(
        "fault",
        help="have a device err, for those who test drivers",
        description="Have requests, register accesses, interrupts or doorbells of a device go wrong. Rules stay, with "
        "their counts, until they are removed or the VM ends; a device process that is restarted goes on with them.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        usage="orchestrator fault [--json] [VM] DEV [add RULE… | list | remove ID | clear | thaw]",
    )
    parser.add_argument("names", nargs="+", metavar="WORD", help="a VM, a device, and what to do (default: list)")
    parser.add_argument("--json", action="store_true", help="list as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Do it."""
    words = list(options.names)
    at = next((index for index, word in enumerate(words[1:3], 1) if word in _ACTIONS), len(words))
    vm, devices = vms.split(words[:at])
    action, rest = (words[at], words[at + 1 :]) if at < len(words) else ("list", [])
    if len(devices) > 1:
        raise ConfigError(f"fault: no action {devices[1]!r}", hint=f"one of {', '.join(_ACTIONS)}")
    if not devices:
        raise NotFound("faults of which device?", hint=f"`orchestrator ps {vm.name}` lists them")
    if (action == "remove" and len(rest) != 1) or (action in ("list", "clear", "thaw") and rest):
        raise ConfigError(f"fault: {action} {' '.join(rest)}".rstrip(), hint="remove ID, or clear for all rules")
    device = vms.device_of(vm, devices[0])
    rows = client.ask(vm.runtime, lambda connected: _ask(connected, device, action, rest))
    if action == "list" and options.json:
        output.as_json([dict(zip(("id", "rule", "seen", "hits"), row, strict=True)) for row in rows])
    elif action == "list" and rows:
        output.table(("ID", "SEEN", "HITS", "RULE"), [(row[0], row[2], row[3], row[1]) for row in rows])
    elif action == "add":
        output.line(str(rows[0][0]))
    return 0


async def _ask(connected: Client, device: str, action: str, rest: list[str]) -> list[tuple[int, str, int, int]]:
    place = names.device_name(device), names.device_path(device), FAULT1
    try:
        if action == "add":
            rule = {"rule": Variant("s", " ".join(rest))}
            return [((await connected.bus.call(*place, "Add", "a{sv}", [rule], timeout_s=5.0))[0], "", 0, 0)]
        if action == "list":
            return list((await connected.bus.call(*place, "List", timeout_s=5.0))[0])
        if action == "remove":
            await connected.bus.call(*place, "Remove", "u", [_number(rest[0])], timeout_s=5.0)
        else:
            await connected.bus.call(*place, action.capitalize(), timeout_s=5.0)
    except BusError as error:
        if "UnknownMethod" in error.name or "UnknownInterface" in error.name:
            raise BusvmError(f"{device} has no faults", hint="it is of another build") from error
        if "InvalidArgs" in error.name:
            raise ConfigError(f"{device}: {error.message}") from error
        if error.name.endswith("NotFound"):
            hint = f"`orchestrator fault {connected.runtime.vm} {device}` lists them"
            raise NotFound(f"{device}: {error.message}", hint=hint) from error
        raise
    return []


def _number(word: str) -> int:
    if not word.isdigit() or int(word) >= 1 << 32:
        raise ConfigError(f"remove {word}: not the number of a rule", hint="`orchestrator fault VM DEV list` has them")
    return int(word)
