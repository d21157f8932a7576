"""The back-end's half: takes a front-end's requests one by one, answers them, and keeps the rules of the protocol.

A back-end gives one function per request it serves. It gets the message and returns the answer, ``None`` where there
is none; descriptors it does not take are closed. What it raises as ``ProtocolError`` or ``HostError`` becomes a
negative acknowledgement if the front-end waits for one, and otherwise the end of the connection, since a front-end that
is not told would wait for ever or go on with something else than it has asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from protocol.errors import HostError, Malformed, ProtocolError
from protocol.vhost_user.connection import BadMessage, Connection, Message
from protocol.vhost_user.messages import FRONT_END, PROTOCOL_FEATURES, Flag, ProtocolFeature, Request
from protocol.vhost_user.payloads import NOTHING, U64, ConfigSpace, Payload


@dataclass(frozen=True)
class Answer:
    """An answer with descriptors, which are closed by whoever made it when ``close`` says so."""

    payload: Payload = NOTHING
    fds: tuple[int, ...] = ()
    close: Callable[[], None] = lambda: None


Serve = Callable[[Message], Payload | Answer | None]


class BackEnd:
    """One conversation with a front-end."""

    def __init__(
        self,
        connection: Connection,
        handlers: Mapping[Request, Serve],
        *,
        features: Callable[[], int],
        protocol_features: ProtocolFeature,
    ) -> None:
        self.connection = connection
        self.offered = protocol_features
        self.negotiated = ProtocolFeature(0)
        self.served = 0
        self._features = features
        own: dict[int, Serve] = {
            Request.GET_FEATURES: lambda _message: U64(self._features() | PROTOCOL_FEATURES),
            Request.GET_PROTOCOL_FEATURES: lambda _message: U64(int(self.offered)),
            Request.SET_PROTOCOL_FEATURES: self._negotiate,
        }
        self._handlers: dict[int, Serve] = own | {int(request): serve for request, serve in handlers.items()}

    def step(self) -> bool:
        """Serve the next request; return whether there was one.

        Raises:
            ProtocolError, HostError: the conversation cannot go on.
        """
        try:
            message = self.connection.receive()
        except BadMessage as error:
            self._refuse_unread(error)
            return True
        if message is None:
            return False
        with message:
            self._serve(message)
        self.served += 1
        return True

    def _serve(self, message: Message) -> None:
        kind = message.kind
        acknowledged = message.wants_ack and ProtocolFeature.REPLY_ACK in self.negotiated
        try:
            handler = self._handlers.get(kind)
            if handler is None or (kind.row.needs and kind.row.needs not in self.negotiated):
                raise Malformed(f"{kind.name} was not agreed on")
            result = handler(message)
        except (ProtocolError, HostError):
            if kind == Request.GET_CONFIG:
                self.connection.reply(message, ConfigSpace(0, 0, b""))  # size 0 is the specification's no
                return
            if not acknowledged:
                raise
            self.connection.acknowledge(kind, done=False)
            return
        answer = result if isinstance(result, Answer) else Answer(result or NOTHING)
        try:
            if kind.row.reply is not None:
                self.connection.reply(message, answer.payload, answer.fds)
            elif message.wants_ack and ProtocolFeature.REPLY_ACK in self.negotiated:
                self.connection.acknowledge(kind, done=True)
        finally:
            answer.close()

    def _refuse_unread(self, error: BadMessage) -> None:
        kind = FRONT_END.get(error.number)
        waits = bool(error.flags & Flag.NEED_REPLY) and not error.flags & Flag.REPLY
        if kind is None or kind.row.reply or not waits or ProtocolFeature.REPLY_ACK not in self.negotiated:
            raise error
        self.connection.acknowledge(kind, done=False)

    def _negotiate(self, message: Message) -> None:
        wanted = message.payload.value if isinstance(message.payload, U64) else 0
        if wanted & ~int(self.offered):
            raise Malformed(f"protocol features {wanted & ~int(self.offered):#x} were not offered")
        self.negotiated = ProtocolFeature(wanted)
