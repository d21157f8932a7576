"""The D-Bus interfaces of busvm, read from the XML files beside this module, which are the contract."""

from __future__ import annotations

import functools
import xml.etree.ElementTree as ET
from dataclasses import dataclass, field
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class Method:
    """A method: the joined signatures of its arguments, in and out."""

    name: str
    inputs: str
    outputs: str


@dataclass(frozen=True)
class Property:
    """A property; ``access`` is ``read`` or ``readwrite``."""

    name: str
    type: str
    access: str


@dataclass(frozen=True)
class Interface:
    """One interface and the XML text that describes it."""

    name: str
    xml: str
    methods: dict[str, Method] = field(default_factory=dict)
    properties: dict[str, Property] = field(default_factory=dict)
    signals: dict[str, str] = field(default_factory=dict)


def parse(text: str) -> list[Interface]:
    """Return the interfaces in an introspection document."""
    found = []
    for node in ET.fromstring(text).iter("interface"):
        ET.indent(node, space="  ", level=1)
        xml = "  " + ET.tostring(node, encoding="unicode").strip()
        methods = {
            m.attrib["name"]: Method(
                m.attrib["name"],
                "".join(a.attrib["type"] for a in m.iter("arg") if a.get("direction", "in") == "in"),
                "".join(a.attrib["type"] for a in m.iter("arg") if a.get("direction") == "out"),
            )
            for m in node.iter("method")
        }
        properties = {
            p.attrib["name"]: Property(p.attrib["name"], p.attrib["type"], p.attrib["access"])
            for p in node.iter("property")
        }
        signals = {s.attrib["name"]: "".join(a.attrib["type"] for a in s.iter("arg")) for s in node.iter("signal")}
        found.append(Interface(node.attrib["name"], xml, methods, properties, signals))
    return found


def file(name: str) -> Path:
    """Return where the interface ``name`` is written."""
    return _FOLDER / f"{name}.xml"


@functools.cache
def load(name: str) -> Interface:
    """Return the interface ``name`` from its file ``<name>.xml``."""
    for interface in parse(file(name).read_text()):
        if interface.name == name:
            return interface
    raise KeyError(name)


def names() -> list[str]:
    """Return the names of all interfaces that have a file."""
    return sorted(path.stem for path in _FOLDER.glob("*.xml"))
