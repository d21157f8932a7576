"""Objects on the bus: dispatch, Introspect, Properties and ObjectManager, driven by the interface files.

An implementation is any object. Method ``Attach`` of an interface is its method ``attach`` (plain or ``async``),
property ``PageSize`` its attribute or property ``page_size``. A getter that fails leaves its one property out; it
never takes ``GetAll`` or ``GetManagedObjects`` down with it. Every parent path exists, so that no tool sees an empty
root.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from protocol import interfaces
from protocol.access import Guard
from protocol.bus import Bus, BusError, Call, Variant

_PROPERTIES = "org.freedesktop.DBus.Properties"
_INTROSPECTABLE = "org.freedesktop.DBus.Introspectable"
_MANAGER = "org.freedesktop.DBus.ObjectManager"
_PEER = "org.freedesktop.DBus.Peer"
_ERROR = "org.freedesktop.DBus.Error"

_DOCTYPE = (
    '<!DOCTYPE node PUBLIC "-//freedesktop//DTD D-BUS Object Introspection 1.0//EN"\n'
    ' "http://www.freedesktop.org/standards/dbus/1.0/introspect.dtd">\n'
)


def attribute(member: str) -> str:
    """Return the Python name of a D-Bus member: ``PageSize`` → ``page_size``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", member).lower()


class Tree:
    """The objects that one process shows on one bus; ``root`` also answers ObjectManager, ``guard`` lets calls pass."""

    def __init__(self, bus: Bus, root: str, guard: Guard | None = None) -> None:
        self.bus = bus
        self.root = root
        self._guard = guard
        self._objects: dict[str, dict[str, Any]] = {}
        bus.serve(self._handle)

    def add(self, path: str, name: str, implementation: object) -> None:
        """Show ``implementation`` at ``path`` under the interface ``name``, and announce it."""
        interfaces.load(name)
        self._objects.setdefault(path, {})[name] = implementation
        properties = {name: self._all(path, name)}
        self.bus.emit(self.root, _MANAGER, "InterfacesAdded", "oa{sa{sv}}", [path, properties])

    def remove(self, path: str) -> None:
        """Take everything at ``path`` away, and announce it."""
        gone = self._objects.pop(path, {})
        if gone:
            self.bus.emit(self.root, _MANAGER, "InterfacesRemoved", "oas", [path, list(gone)])

    def changed(self, path: str, name: str, *members: str) -> None:
        """Emit PropertiesChanged with the present values of ``members``."""
        values = {m: v for m, v in self._all(path, name).items() if m in members}
        self.bus.emit(path, _PROPERTIES, "PropertiesChanged", "sa{sv}as", [name, values, []])

    def signal(self, path: str, name: str, member: str, *body: Any) -> None:
        """Emit a signal that the interface declares."""
        self.bus.emit(path, name, member, interfaces.load(name).signals[member], list(body))

    async def _handle(self, call: Call) -> tuple[str, list[Any]] | None:
        if self._guard is not None:
            await self._guard.check(call)
        if call.interface == _PEER and call.member == "Ping":
            return "", []
        if call.member == "Introspect" and call.interface in (_INTROSPECTABLE, ""):
            return self._introspect(call.path)
        if call.interface == _MANAGER and call.member == "GetManagedObjects":
            if call.path != self.root:
                return None
            return "a{oa{sa{sv}}}", [self._managed()]
        if call.interface == _PROPERTIES and call.path in self._objects:
            return self._properties(call)
        return await self._method(call)

    async def _method(self, call: Call) -> tuple[str, list[Any]] | None:
        for name, implementation in self._objects.get(call.path, {}).items():
            if call.interface not in ("", name):
                continue
            method = interfaces.load(name).methods.get(call.member)
            if method is None:
                continue
            if call.signature != method.inputs:
                raise BusError(
                    f"{_ERROR}.InvalidArgs", f"{name}.{call.member} takes {method.inputs!r}, not {call.signature!r}"
                )
            result = getattr(implementation, attribute(call.member))(*call.body)
            if inspect.isawaitable(result):
                result = await result
            if not method.outputs:
                return "", []
            single = len(interfaces_types(method.outputs)) == 1
            return method.outputs, [result] if single else list(result)
        return None

    def _properties(self, call: Call) -> tuple[str, list[Any]] | None:
        expected = {"Get": "ss", "Set": "ssv", "GetAll": "s"}.get(call.member)
        if expected is None:
            return None
        if call.signature != expected:
            raise BusError(f"{_ERROR}.InvalidArgs", f"{call.member} takes {expected!r}, not {call.signature!r}")
        name = call.body[0]
        here = self._objects[call.path]
        if name not in here:
            if call.member == "GetAll" and name == "":
                return "a{sv}", [{k: v for n in here for k, v in self._all(call.path, n).items()}]
            raise BusError(f"{_ERROR}.UnknownInterface", f"no interface {name!r} at {call.path}")
        if call.member == "GetAll":
            return "a{sv}", [self._all(call.path, name)]
        declared = interfaces.load(name).properties.get(call.body[1])
        if declared is None:
            raise BusError(f"{_ERROR}.UnknownProperty", f"no property {call.body[1]!r} in {name}")
        if call.member == "Get":
            return "v", [Variant(declared.type, getattr(here[name], attribute(declared.name)))]
        if declared.access == "read":
            raise BusError(f"{_ERROR}.PropertyReadOnly", f"{name}.{declared.name} is read-only")
        setattr(here[name], attribute(declared.name), call.body[2])
        self.changed(call.path, name, declared.name)
        return "", []

    def _all(self, path: str, name: str) -> dict[str, Any]:
        values = {}
        implementation = self._objects[path][name]
        for declared in interfaces.load(name).properties.values():
            try:
                values[declared.name] = Variant(declared.type, getattr(implementation, attribute(declared.name)))
            except Exception:  # one bad getter must not hide the rest of the tree
                continue
        return values

    def _managed(self) -> dict[str, Any]:
        return {
            path: {name: self._all(path, name) for name in here}
            for path, here in self._objects.items()
            if path != self.root
        }

    def _introspect(self, path: str) -> tuple[str, list[Any]] | None:
        prefix = path.rstrip("/") + "/"
        children = sorted({p[len(prefix) :].split("/")[0] for p in self._objects if p.startswith(prefix)})
        here = self._objects.get(path, {})
        if not here and not children:
            return None
        shown = [_INTROSPECTABLE, _PEER]
        if here:
            shown.append(_PROPERTIES)
        if path == self.root:
            shown.append(_MANAGER)
        parts = [interfaces.load(name).xml for name in [*shown, *here]]
        nodes = [f'  <node name="{child}"/>' for child in children]
        return "s", [_DOCTYPE + "<node>\n" + "\n".join(parts + nodes) + "\n</node>\n"]


def interfaces_types(signature: str) -> list[str]:
    """Split a signature into its complete types."""
    types: list[str] = []
    start = depth = 0
    for index, token in enumerate(signature):
        depth += token in "({"
        depth -= token in ")}"
        if depth == 0 and token != "a":
            types.append(signature[start : index + 1])
            start = index + 1
    return types
