"""What a device's class declares, as data and as a page for readers: ``--describe`` of every device program.

Options, registers, queues' headers and private state all come from the one declaration; ``digest`` is what a page says
of it, so that a successor of another shape is refused.
"""

from __future__ import annotations

import inspect
import zlib
from typing import TYPE_CHECKING, Any

from devproc.registers import RegisterMap
from devproc.state import Record
from devproc.tracing import fields
from protocol.layout import CONFIG_BAR

if TYPE_CHECKING:
    from devproc.device import Device


def digest(registers: RegisterMap, version: int) -> int:
    """Return a number that differs when registers lie elsewhere or the private state is of another version."""
    rows = [(r.name, *registers.place(r), r.width) for r in registers.all]
    return zlib.crc32(repr((version, rows)).encode()) | 1 << 32  # never 0, which is a page of nobody


def describe(device: type[Device]) -> dict[str, Any]:
    """Return the declaration of ``device``."""
    registers = device.registers
    shown: dict[str, Any] = {
        "class": f"{device.__module__}:{device.__qualname__}",
        "description": (inspect.getdoc(device) or "").splitlines()[0],
        "transport": device.transport,
        "state_version": device.state_version,
        "schema": digest(registers, device.state_version),
        "registers": [
            {
                "name": r.name, "bar": "config" if bar == CONFIG_BAR else bar, "offset": offset, "width": r.width,
                "access": r.access, "mask": r.mask, "reset": r.reset, "load": r.read_kind.name.lower(),
                "store": r.write_kind.name.lower(), "doc": r.doc,
            }
            for r in registers.all
            for bar, offset in [registers.place(r)]
        ],
    }  # fmt: skip
    for name in ("request_header", "request_answer"):
        record: type[Record] | None = getattr(device, name)
        if record:
            shown[name] = [{"name": n, "width": w, "values": values} for n, w, values in fields(record)]
    return shown


def markdown(shown: dict[str, Any], *, inherited: RegisterMap | None = None) -> str:
    """Return a page about what ``describe`` found, without the registers that the device has inherited."""
    known = inherited.by_name if inherited else {}
    lines = [f"## {shown['class'].partition(':')[2]}", "", shown["description"], ""]
    rows = [row for row in shown["registers"] if row["name"] not in known]
    if rows:
        lines += [
            "| register | at | bytes | access | reset | a load | a store | |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for row in rows:
        place = f"{row['bar']}:{row['offset']:#x}" if row["bar"] == "config" else f"bar{row['bar']}+{row['offset']:#x}"
        cells = [f"`{row['name']}`", place, row["width"], row["access"], f"{row['reset']:#x}"]
        lines.append("| " + " | ".join(str(cell) for cell in [*cells, row["load"], row["store"], row["doc"]]) + " |")
    for name, title in (("request_header", "A request begins with"), ("request_answer", "Its answer ends with")):
        if name not in shown:
            continue
        lines += ["", f"{title}:", "", "| word | bytes | values |", "|---|---|---|"]
        for word in shown[name]:
            values = ", ".join(f"{value} {text}" for value, text in word["values"].items())
            lines.append(f"| `{word['name']}` | {word['width']} | {values} |")
    return "\n".join(lines) + "\n"
