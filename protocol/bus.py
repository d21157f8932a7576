"""The connection to a D-Bus: the only module that imports a D-Bus library.

``dbus-fast`` by default; ``BUSVM_DBUS=dbus_next`` selects its ancestor (the extra ``busvm[dbus-next]``). Only what both
share is used: messages, variants, the connection. Objects, introspection and properties are served by
``protocol.objects`` from the interface files, because the libraries' own services lose argument names, fail a whole
tree for one bad getter, and leak descriptors.

Descriptors: an ``Fd`` in a body is sent as type ``h`` and stays the caller's to close. A descriptor that arrives
belongs to whoever receives the body; those of a message nobody takes are closed here.
"""

from __future__ import annotations

import asyncio
import importlib
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, cast

from protocol.errors import BusvmError, HostError, NotFound
from protocol.tasks import Tasks

_LIBRARIES = ("dbus_fast", "dbus_next")
_library = os.environ.get("BUSVM_DBUS", _LIBRARIES[0])
if _library not in _LIBRARIES:
    raise ImportError(f"BUSVM_DBUS={_library}: {' or '.join(_LIBRARIES)}")
_dbus: Any = importlib.import_module(_library)
_MessageBus: Any = importlib.import_module(f"{_library}.aio.message_bus").MessageBus

Variant = _dbus.Variant
_Message = _dbus.Message
_Type = _dbus.MessageType

DBUS_NAME = "org.freedesktop.DBus"
DBUS_PATH = "/org/freedesktop/DBus"

CALL_TIMEOUT_S = 25.0


class Fd(int):
    """A descriptor in a message body. One in a call is closed once the call is answered: who keeps it duplicates it."""


class BusError(BusvmError):
    """A call was answered with an error; ``name`` is the D-Bus error name."""

    def __init__(self, name: str, text: str) -> None:
        super().__init__(text or name)
        self.name = name


class Disconnected(BusvmError):
    """The bus is gone; who belongs to a VM waits until it is there again (``protocol.staying``)."""


class Call:
    """A method call that arrived: who, what, and the plain values of its body."""

    def __init__(self, message: Any, fds: list[int]) -> None:
        self.sender: str = message.sender or ""
        self.path: str = message.path or ""
        self.interface: str = message.interface or ""
        self.member: str = message.member or ""
        self.signature: str = message.signature
        self.body: list[Any] = _plain(message.body, message.signature, fds)


Handler = Callable[[Call], Awaitable[tuple[str, list[Any]] | None]]
NameWatcher = Callable[[str, str, str], None]


def _plain(body: list[Any], signature: str, fds: list[int]) -> list[Any]:
    """Return ``body`` with variants unwrapped and descriptor indices replaced by ``Fd``."""
    tree = _dbus.SignatureTree(signature) if signature else None
    types = tree.types if tree else []
    return [_plain_value(value, kind, fds) for value, kind in zip(body, types, strict=True)]


def _plain_value(value: Any, kind: Any, fds: list[int]) -> Any:
    token = kind.token
    if token == "h":
        if not 0 <= value < len(fds):
            raise BusError(f"{DBUS_NAME}.Error.InvalidArgs", "a descriptor that did not come along")
        return Fd(fds[value])
    if token == "v":
        return _plain_value(value.value, value.type, fds)
    if token == "a":
        inner = kind.children[0]
        if inner.token == "{":
            return {k: _plain_value(v, inner.children[1], fds) for k, v in value.items()}
        if inner.token == "y":
            return bytes(value)
        return [_plain_value(item, inner, fds) for item in value]
    if token == "(":
        return tuple(_plain_value(item, child, fds) for item, child in zip(value, kind.children, strict=True))
    return value


def _wire(value: Any, fds: list[int]) -> Any:
    """Return ``value`` as the library wants it, with descriptors moved to ``fds``."""
    if isinstance(value, Fd):
        fds.append(int(value))
        return len(fds) - 1
    if isinstance(value, Variant):
        return Variant(value.signature, _wire(value.value, fds))
    if isinstance(value, dict):
        return {k: _wire(v, fds) for k, v in value.items()}
    if isinstance(value, list):
        return [_wire(item, fds) for item in value]
    if isinstance(value, tuple):
        return (
            [_wire(item, fds) for item in value]
            if _dbus.__name__ == "dbus_next"
            else tuple(_wire(item, fds) for item in value)
        )
    return value


async def _connection_to(address: str) -> Any:
    try:
        connection = _MessageBus(bus_address=address, negotiate_unix_fd=True)
        await asyncio.wait_for(connection.connect(), CALL_TIMEOUT_S)
    except (OSError, _dbus.AuthError, TimeoutError, EOFError, _dbus.InvalidAddressError) as error:
        raise HostError(
            f"cannot reach the bus at {address}: {error}",
            hint="is the VM running? `orchestrator env` prints its address",
        ) from error
    return connection


class Bus:
    """A connection, or one after the other (``reconnect``). All belongs to the event loop that ``connect`` ran on."""

    def __init__(self, address: str, connection: Any) -> None:
        self.address = address
        self._connection = connection
        self._handler: Handler | None = None
        self._watchers: list[NameWatcher] = []
        self.daemon = 0
        """Counts the daemons that the bus has had: unique names are of one of them."""
        self._names: list[str] = []
        self._queued: list[str] = []
        self._tasks = Tasks()
        self._closed: asyncio.Future[Any] | None = None
        connection.add_message_handler(self._on_message)

    @classmethod
    async def connect(cls, address: str) -> Bus:
        """Connect and authenticate (EXTERNAL).

        Raises:
            HostError: nobody listens at ``address``, or it refuses us.
        """
        return cls(address, await _connection_to(address))

    async def reconnect(self) -> None:
        """Connect again after the bus has gone: objects, watches and names are as before, unique names are not.

        Raises:
            BusvmError: it is not there yet, or gone again.
            TimeoutError: likewise.
        """
        self._connection, self._closed = await _connection_to(self.address), None
        self.daemon += 1
        self._connection.add_message_handler(self._on_message)
        try:
            if self._watchers:
                await self._add_match()
            for name in self._names:
                await self.request_name(name)
            for name in self._queued:
                await self.queue_for(name)
        except BaseException:
            self.close()
            raise

    @property
    def is_connected(self) -> bool:
        """Whether the bus is there."""
        return bool(self._connection.connected)

    @property
    def unique_name(self) -> str:
        """This connection's unique name."""
        return cast(str, self._connection.unique_name)

    async def request_name(self, name: str) -> None:
        """Own ``name``.

        Raises:
            HostError: somebody else has it, or the bus gives no such names.
        """
        try:
            reply = await asyncio.wait_for(
                self._connection.request_name(name, _dbus.NameFlag.DO_NOT_QUEUE), CALL_TIMEOUT_S
            )
        except _dbus.DBusError as error:
            raise HostError(f"{name} is not to be had on this bus: {error}") from error
        except (EOFError, OSError) as error:
            raise Disconnected(f"the bus is gone: {error}") from error
        if reply not in (_dbus.RequestNameReply.PRIMARY_OWNER, _dbus.RequestNameReply.ALREADY_OWNER):
            raise HostError(f"{name} is taken on this bus", hint="a device of that id is attached already")
        if name not in self._names:
            self._names.append(name)

    async def queue_for(self, name: str) -> None:
        """Own ``name``, or wait in line for it: of some names all who wait are meant."""
        await self._connection.request_name(name, _dbus.NameFlag.NONE)
        if name not in self._queued:
            self._queued.append(name)

    async def call(
        self,
        destination: str,
        path: str,
        interface: str,
        member: str,
        signature: str = "",
        body: list[Any] | None = None,
        *,
        timeout_s: float | None = CALL_TIMEOUT_S,
    ) -> list[Any]:
        """Call a method and return its plain results.

        Raises:
            BusError: the peer answered with an error.
            NotFound: nobody owns ``destination``.
            TimeoutError: no answer in ``timeout_s`` (``None`` waits for ever).
            Disconnected: the bus went away.
        """
        fds: list[int] = []
        message = _Message(
            destination=destination,
            path=path,
            interface=interface,
            member=member,
            signature=signature,
            body=[_wire(value, fds) for value in body or []],
            unix_fds=fds,
        )
        if not self._connection.connected:
            raise Disconnected("the bus is gone")
        try:
            reply = await asyncio.wait_for(self._connection.call(message), timeout_s)
        except TimeoutError:
            raise
        except (EOFError, OSError) as error:
            raise Disconnected(f"the bus is gone: {error}") from error
        if reply is None:  # the library's answer to all whose connection has ended
            raise Disconnected("the bus is gone")
        if reply.message_type is _Type.ERROR:
            text = str(reply.body[0]) if reply.body else ""
            if reply.error_name.endswith((".ServiceUnknown", ".NameHasNoOwner")):
                raise NotFound(f"nobody owns {destination} on this bus")
            raise BusError(reply.error_name, text)
        return _plain(reply.body, reply.signature, reply.unix_fds)

    async def name_owner(self, name: str) -> str | None:
        """Return the unique name behind ``name``, or ``None``."""
        try:
            owner = await self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetNameOwner", "s", [name])
        except NotFound:
            return None
        return cast(str, owner[0])

    async def peer_pid(self, name: str) -> int:
        """Return the process id of the owner of ``name``, as the bus daemon knows it from the socket."""
        answer = await self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "GetConnectionUnixProcessID", "s", [name])
        return cast(int, answer[0])

    async def list_names(self) -> list[str]:
        """Return all names on the bus."""
        answer = await self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "ListNames")
        return cast(list[str], answer[0])

    async def owned(self, wanted: Callable[[str], object]) -> AsyncIterator[tuple[str, str]]:
        """Yield each name that is ``wanted`` with its owner, at once: no later change of hands is told before it."""
        for name in await self.list_names():
            owner = await self.name_owner(name) if wanted(name) else None
            if owner:
                yield name, owner

    async def watch_names(self, watcher: NameWatcher) -> None:
        """Call ``watcher(name, old_owner, new_owner)`` whenever a name changes hands: the liveness signal."""
        if not self._watchers:
            await self._add_match()
        self._watchers.append(watcher)

    async def _add_match(self) -> None:
        rule = f"type='signal',sender='{DBUS_NAME}',interface='{DBUS_NAME}',member='NameOwnerChanged'"
        await self.call(DBUS_NAME, DBUS_PATH, DBUS_NAME, "AddMatch", "s", [rule])

    def serve(self, handler: Handler) -> None:
        """Answer method calls with ``handler``: it returns (signature, results), or ``None`` when it has no such."""
        self._handler = handler

    def emit(self, path: str, interface: str, member: str, signature: str, body: list[Any]) -> None:
        """Send a signal."""
        if self._connection.connected:
            self._connection.send(_Message.new_signal(path, interface, member, signature, body))

    def _on_message(self, message: Any) -> bool | None:
        if message.message_type is _Type.SIGNAL:
            if message.member == "NameOwnerChanged" and message.sender == DBUS_NAME:
                for watcher in self._watchers:
                    watcher(*message.body)
            return None
        if message.message_type is not _Type.METHOD_CALL:
            return None
        # taken now: messages without descriptors share a list in dbus-fast, and the next that has some puts them there
        self._tasks.start(self._answer(message, list(message.unix_fds)))
        return True

    async def _answer(self, message: Any, given: list[int]) -> None:
        fds: list[int] = []
        try:
            answer = await self._handler(Call(message, given)) if self._handler else None
            if answer is None:
                text = f"no {message.interface or ''}.{message.member} at {message.path}"
                reply = _Message.new_error(message, f"{DBUS_NAME}.Error.UnknownMethod", text)
            else:
                signature, results = answer
                body = [_wire(value, fds) for value in results]
                reply = _Message.new_method_return(message, signature, body, fds)
        except BusError as error:
            reply = _Message.new_error(message, error.name, error.message)
        except BusvmError as error:
            reply = _Message.new_error(message, f"org.busvm.Error.{type(error).__name__}", error.message)
        except Exception as error:
            # the caller is a peer, perhaps a person with busctl: it gets an answer, never a traceback or silence
            reply = _Message.new_error(message, "org.busvm.Error.Internal", f"{type(error).__name__}: {error}")
        finally:
            for fd in given:
                os.close(fd)
        if self._connection.connected and not message.flags & _dbus.MessageFlag.NO_REPLY_EXPECTED:
            self._connection.send(reply)

    async def wait_closed(self) -> None:
        """Return when the connection has ended; may be awaited, and cancelled, any number of times."""
        if self._closed is None:
            self._closed = asyncio.ensure_future(self._connection.wait_for_disconnect())
        # the library hands out its one future: a waiter that is cancelled must not take it along
        await asyncio.wait([self._closed])
        if not self._closed.cancelled():
            self._closed.exception()

    def close(self) -> None:
        """Disconnect."""
        if self._connection.connected:
            self._connection.disconnect()
