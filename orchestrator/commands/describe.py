"""``env``, ``config`` and ``validate``: about a VM without touching it."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from dataclasses import asdict
from pathlib import Path
from typing import Any

from orchestrator import config as vm_config
from orchestrator import faults, output, plan, schema, vms
from orchestrator.commands.up import file_meant
from orchestrator.config import Config
from orchestrator.keys.machine import SCHEMA_VERSION
from orchestrator.keys.types import NETWORK_CARDS
from protocol.names import Runtime
from protocol.sizes import format_size


def add(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the verbs."""
    parser = verbs.add_parser(
        "env",
        help="print the address of a VM's bus for other programs",
        description='Print shell commands: eval "$(orchestrator env)" makes busctl --user, gdbus and D-Spy see the VM.',
    )
    parser.add_argument("vm", nargs="?", metavar="VM", help="name, or its vm.toml")
    parser.set_defaults(run=run_env)
    parser = verbs.add_parser(
        "config",
        help="print the resolved configuration",
        description="Print the configuration with all defaults, as TOML that gives the same VM.",
    )
    _add_file(parser)
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of vm.toml, for editors")
    parser.set_defaults(run=run_config)
    parser = verbs.add_parser(
        "validate", help="check a vm.toml", description="Check a vm.toml; exit status 2 and one line if it is wrong."
    )
    _add_file(parser)
    parser.set_defaults(run=run_validate)


def _add_file(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", nargs="?", metavar="FILE", type=Path, help="vm.toml, or a folder with one")
    parser.add_argument("--name", help="name of the VM, instead of vm.name")
    parser.add_argument("--set", metavar="KEY=VALUE", action="append", default=[], help="such as vm.memory=1G")


def run_env(options: argparse.Namespace) -> int:
    """Print the bus address."""
    vm = vms.find(options.vm)
    output.line(f"export DBUS_SESSION_BUS_ADDRESS='{vm.runtime.bus_address}'")
    return 0


def _load(options: argparse.Namespace) -> Config:
    return vm_config.load(file_meant(options.file), options.set, name=options.name)


def run_validate(options: argparse.Namespace) -> int:
    """Check a file."""
    config = _load(options)
    _check_guest(config)
    _check_cards(config)
    kernel = "with the embedded guest" if config.embedded else "with its own kernel"
    if not (config.embedded or config.kernel):
        kernel = "without a kernel"
    output.line(f"{config.file or 'no file'}: VM {config.name!r}, {len(config.devices)} devices, {kernel}")
    return 0


def _check_guest(config: Config) -> None:
    """Have the CPU process place the guest on paper: it alone knows what is in the files and what fits."""
    from guest import elf_path

    command = plan.check_command(config, Runtime(config.name), elf_path())
    cpu = plan.environment()
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=dict(os.environ) | cpu)
    if done.returncode:
        how = f"ended with status {done.returncode}"
        raise faults.explain(config, plan.CPU, how, done.returncode, done.stderr.splitlines())


def _check_cards(config: Config) -> None:
    """Have each network card say whether the host gives it its network: a tap takes a privilege, say."""
    from guest import elf_path

    made = plan.make(config, Runtime(config.name), guest=elf_path())
    for card in made.devices:
        if card.type not in NETWORK_CARDS:
            continue
        command, env = [*card.argv, "--check"], dict(os.environ) | card.env
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=env, cwd=card.cwd)
        if done.returncode:
            how = f"ended with status {done.returncode}"
            raise faults.explain(config, card.id, how, done.returncode, done.stderr.splitlines())


def run_config(options: argparse.Namespace) -> int:
    """Print the resolved configuration."""
    if options.schema:
        output.as_json(schema.json_schema())
        return 0
    tables = resolved(_load(options))
    if options.json:
        output.as_json(tables)
    else:
        output.line(toml(tables))
    return 0


def resolved(config: Config) -> dict[str, Any]:
    """Return the tables of a vm.toml that gives this configuration."""
    boot = {key.name: getattr(config, key.name) for key in schema.KEYS if key.table == "boot"}
    tables: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "vm": {
            "name": config.name,
            "memory": format_size(config.memory),
            "cpus": config.cpus,
            "interrupts": config.interrupts,
        },
        "boot": {name: _value(value) for name, value in boot.items() if value},
        "load": [{name: _value(value) for name, value in rows} for rows in config.loads],
        "fw-cfg": [{name: _value(value) for name, value in rows} for rows in config.files],
        "debug": {"symbols": str(config.symbols)} if config.symbols else {},
        **{
            table: [
                {name: _value(value) for name, value in asdict(one).items() if value not in (None, (), "")}
                for one in declared
            ]
            for table, declared in (("hub", config.hubs), ("service", config.services))
        },
        "device": [
            {
                name: _value(value)
                for name, value in {
                    "id": device.id,
                    "type": device.type,
                    **({"bus": device.bus} if device.bus != "pci" else {}),
                    **({"plugged": False} if not device.plugged else {}),
                    "start": device.start,
                    "restart": device.restart,
                    **({"args": device.args} if device.args else {}),
                    **dict(device.options),
                }.items()
            }
            for device in config.devices
        ],
    }
    return tables


def _value(value: Any) -> Any:
    if isinstance(value, tuple):
        return list(value)
    return str(value) if isinstance(value, Path) else value


def toml(tables: dict[str, Any]) -> str:
    """Write tables as TOML; its strings and lists are written as JSON's."""
    lines = [f"schema = {tables['schema']}"]
    for name in schema.SINGLE_TABLES:
        if not tables[name]:
            continue
        lines += ["", f"[{name}]", *_lines(tables[name])]
    for name in schema.LISTS:
        for row in tables[name]:
            lines += ["", f"[[{name}]]", *_lines(row)]
    return "\n".join(lines)


def _lines(table: dict[str, Any]) -> list[str]:
    return [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in table.items()]
