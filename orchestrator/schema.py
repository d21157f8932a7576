"""The keys of vm.toml: one table, from which validation, the documentation and the JSON schema are derived.

A key that a device process understands names the option it becomes, so that the plan needs no list of its own. A name
may be several keys, of devices of different types.
"""

from __future__ import annotations

from typing import Any

from orchestrator.keys import device, ivshmem, machine, network
from orchestrator.keys.key import Key, Kind
from protocol.sizes import format_size

# slot 0 of PCI bus 0 is the host bridge; the ports that pcie devices are behind take slots from FIRST_PORT on
# a slot of PCI has eight functions
SLOTS = {"pci": range(1, 32), "pcie": range(16), "mmio": range(8), "platform": range(32)}
FIRST_PORT = 16
FUNCTIONS = 8

RESERVED_IDS = frozenset({"bus", "cpu", "console", "machine", "orchestrator"})  # names of other processes' logs
PYTHON_PREFIX = "python:"


KEYS = (*machine.KEYS, *network.HUB_KEYS, *ivshmem.SERVICE_KEYS, *device.KEYS, *network.KEYS, *ivshmem.KEYS)

SINGLE_TABLES = ("vm", "boot", "debug")
LISTS = ("load", "fw-cfg", "hub", "service", "device")  # written [[load]], any number of times
TABLES = (*SINGLE_TABLES, *LISTS)


def keys_of(table: str, kind: str = "") -> dict[str, Key]:
    """Return the keys of one table by name; of devices those of every type and of type ``kind``."""
    return {key.name: key for key in KEYS if key.table == table and (not key.types or kind in key.types)}


def types_with(name: str) -> list[str]:
    """Return the types of devices that have a key of this name."""
    return [kind for key in KEYS if key.table == "device" and key.name == name for kind in key.types]


def default_text(key: Key) -> str:
    """Return the default as it would be written, or nothing."""
    if key.required:
        return "required"
    if key.default in (None, "", ()):
        return ""
    if key.kind is Kind.SIZE:
        return f'"{format_size(key.default)}"'
    if key.kind is Kind.FLAG:
        return "true" if key.default else "false"
    return _written(key.default)


def _written(value: str | int) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


def markdown() -> str:
    """Return the table of keys for docs/vm-toml.md."""
    rows = ["| key | value | default | |", "|---|---|---|---|"]
    for key in KEYS:
        value = ", ".join(f"`{_written(choice)}`" for choice in key.choices) or str(key.kind)
        default = default_text(key)
        shown = default if default in ("", "required") else f"`{default}`"
        only = f" Only for {', '.join(f'`{name}`' for name in key.types)}." if key.types else ""
        rows.append(f"| `{key.path}` | {value} | {shown} | {key.doc}{only} |")
    return "\n".join(rows) + "\n"


_JSON_TYPES: dict[Kind, dict[str, Any]] = {
    Kind.TEXT: {"type": "string"},
    Kind.SIZE: {"type": ["integer", "string"], "pattern": "^[0-9]+[KMGT]?$"},
    Kind.COUNT: {"type": "integer"},
    Kind.NUMBER: {"type": "integer", "minimum": 0},
    Kind.FLAG: {"type": "boolean"},
    Kind.FILE: {"type": "string"},
    Kind.PATH: {"type": "string"},
    Kind.WORDS: {"type": "array", "items": {"type": "string"}},
}


def _json_key(key: Key) -> dict[str, Any]:
    described: dict[str, Any] = {**_JSON_TYPES[key.kind], "description": key.doc}
    if key.choices:
        described["enum"] = list(key.choices)
    if key.kind is Kind.COUNT:
        described["minimum"] = key.least
        if key.most is not None:
            described["maximum"] = key.most
    if key.default not in (None, ()):
        described["default"] = format_size(key.default) if key.kind is Kind.SIZE else key.default
    return described


def _json_table(table: str) -> dict[str, Any]:
    properties: dict[str, Any] = {}
    for key in (key for key in KEYS if key.table == table):
        before = properties.get(key.name)
        described = _json_key(key)
        properties[key.name] = described if before is None else {"anyOf": [*before.get("anyOf", [before]), described]}
    required = [key.name for key in keys_of(table).values() if key.required]
    found: dict[str, Any] = {
        "type": "object",
        "properties": properties,
        "additionalProperties": False,
    }
    return found | ({"required": required} if required else {})


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema of vm.toml, for editors."""
    top = _json_table("")
    for table in TABLES:
        described = _json_table(table)
        top["properties"][table] = {"type": "array", "items": described} if table in LISTS else described
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "vm.toml"} | top
