"""Every message of vhost-user: number, name, payload, answer, descriptors, and the protocol feature it needs.

``FRONT_END`` has what a front-end asks a back-end, ``BACK_END`` what a back-end asks its front-end on the socket of
``SET_BACKEND_REQ_FD``. Names are the specification's without ``VHOST_USER_`` and ``VHOST_USER_BACKEND_``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import Self

from protocol.vhost_user.payloads import (
    U64,
    ConfigSpace,
    Inflight,
    Iotlb,
    Log,
    MemTable,
    Nothing,
    Opaque,
    Payload,
    ShmemConfig,
    ShmemMap,
    SingleRegion,
    Transfer,
    Uuid,
    VringAddr,
    VringArea,
    VringState,
)

VERSION = 1
PROTOCOL_FEATURES = 1 << 30  # among the virtio features: there are protocol features
LOG_ALL = 1 << 26


class Flag(IntFlag):
    """Flags in the header of a message; the lowest two bits are the version."""

    VERSION = 0x3
    REPLY = 0x4
    NEED_REPLY = 0x8


class ProtocolFeature(IntFlag):
    """Protocol features."""

    MQ = 1 << 0
    LOG_SHMFD = 1 << 1
    RARP = 1 << 2
    REPLY_ACK = 1 << 3
    NET_MTU = 1 << 4
    BACKEND_REQ = 1 << 5
    CROSS_ENDIAN = 1 << 6
    CRYPTO_SESSION = 1 << 7
    PAGEFAULT = 1 << 8
    CONFIG = 1 << 9
    BACKEND_SEND_FD = 1 << 10
    HOST_NOTIFIER = 1 << 11
    INFLIGHT_SHMFD = 1 << 12
    RESET_DEVICE = 1 << 13
    INBAND_NOTIFICATIONS = 1 << 14
    CONFIGURE_MEM_SLOTS = 1 << 15
    STATUS = 1 << 16
    XEN_MMAP = 1 << 17
    SHARED_OBJECT = 1 << 18
    DEVICE_STATE = 1 << 19
    GET_VRING_BASE_INFLIGHT = 1 << 20


class Fds(Enum):
    """Which descriptors travel with a message."""

    NONE = "none"
    ONE = "one"
    EVENT = "one, or none if the payload says so"
    REGIONS = "one for each region"
    MAYBE = "one or none"


@dataclass(frozen=True)
class Row:
    """What the table says about a message."""

    payload: type[Payload] = Nothing
    reply: type[Payload] | None = None
    fds: Fds = Fds.NONE
    reply_fds: Fds = Fds.NONE
    needs: ProtocolFeature | None = None


class Kind(IntEnum):
    """A message: a number, and its row as attributes."""

    row: Row

    def __new__(cls, number: int, row: Row) -> Self:
        """Make a member."""
        kind = int.__new__(cls, number)
        kind._value_ = number
        kind.row = row
        return kind

    def count_wanted(self, payload: Payload, *, reply: bool = False) -> tuple[int, int]:
        """Return the fewest and the most descriptors that travel with ``payload``."""
        rule = self.row.reply_fds if reply else self.row.fds
        if rule is Fds.ONE:
            return 1, 1
        if rule is Fds.EVENT:
            expected = 0 if getattr(payload, "no_fd", False) else 1
            return expected, expected
        if rule is Fds.REGIONS and isinstance(payload, MemTable):
            return len(payload.regions), len(payload.regions)
        return (0, 1) if rule is Fds.MAYBE else (0, 0)


_P = ProtocolFeature


class Request(Kind):
    """Requests of a front-end."""

    GET_FEATURES = 1, Row(reply=U64)
    SET_FEATURES = 2, Row(U64)
    SET_OWNER = 3, Row()
    RESET_OWNER = 4, Row()
    SET_MEM_TABLE = 5, Row(MemTable, fds=Fds.REGIONS)
    SET_LOG_BASE = 6, Row(Log, U64, fds=Fds.ONE, needs=_P.LOG_SHMFD)
    SET_LOG_FD = 7, Row(fds=Fds.ONE)
    SET_VRING_NUM = 8, Row(VringState)
    SET_VRING_ADDR = 9, Row(VringAddr)
    SET_VRING_BASE = 10, Row(VringState)
    GET_VRING_BASE = 11, Row(VringState, VringState)
    SET_VRING_KICK = 12, Row(U64, fds=Fds.EVENT)
    SET_VRING_CALL = 13, Row(U64, fds=Fds.EVENT)
    SET_VRING_ERR = 14, Row(U64, fds=Fds.EVENT)
    GET_PROTOCOL_FEATURES = 15, Row(reply=U64)
    SET_PROTOCOL_FEATURES = 16, Row(U64)
    GET_QUEUE_NUM = 17, Row(reply=U64, needs=_P.MQ)
    SET_VRING_ENABLE = 18, Row(VringState)
    SEND_RARP = 19, Row(U64, needs=_P.RARP)
    NET_SET_MTU = 20, Row(U64, needs=_P.NET_MTU)
    SET_BACKEND_REQ_FD = 21, Row(fds=Fds.ONE, needs=_P.BACKEND_REQ)
    IOTLB_MSG = 22, Row(Iotlb, U64)
    SET_VRING_ENDIAN = 23, Row(VringState, needs=_P.CROSS_ENDIAN)
    GET_CONFIG = 24, Row(ConfigSpace, ConfigSpace, needs=_P.CONFIG)
    SET_CONFIG = 25, Row(ConfigSpace, needs=_P.CONFIG)
    CREATE_CRYPTO_SESSION = 26, Row(Opaque, Opaque, needs=_P.CRYPTO_SESSION)
    CLOSE_CRYPTO_SESSION = 27, Row(U64, needs=_P.CRYPTO_SESSION)
    POSTCOPY_ADVISE = 28, Row(reply=Nothing, reply_fds=Fds.ONE, needs=_P.PAGEFAULT)
    POSTCOPY_LISTEN = 29, Row(needs=_P.PAGEFAULT)
    POSTCOPY_END = 30, Row(reply=U64, needs=_P.PAGEFAULT)
    GET_INFLIGHT_FD = 31, Row(Inflight, Inflight, reply_fds=Fds.MAYBE, needs=_P.INFLIGHT_SHMFD)
    SET_INFLIGHT_FD = 32, Row(Inflight, fds=Fds.ONE, needs=_P.INFLIGHT_SHMFD)
    GPU_SET_SOCKET = 33, Row(fds=Fds.ONE)
    RESET_DEVICE = 34, Row(needs=_P.RESET_DEVICE)
    VRING_KICK = 35, Row(VringState, needs=_P.INBAND_NOTIFICATIONS)
    GET_MAX_MEM_SLOTS = 36, Row(reply=U64, needs=_P.CONFIGURE_MEM_SLOTS)
    ADD_MEM_REG = 37, Row(SingleRegion, fds=Fds.ONE, needs=_P.CONFIGURE_MEM_SLOTS)
    REM_MEM_REG = 38, Row(SingleRegion, fds=Fds.MAYBE, needs=_P.CONFIGURE_MEM_SLOTS)
    SET_STATUS = 39, Row(U64, needs=_P.STATUS)
    GET_STATUS = 40, Row(reply=U64, needs=_P.STATUS)
    GET_SHARED_OBJECT = 41, Row(Uuid, Nothing, reply_fds=Fds.MAYBE, needs=_P.SHARED_OBJECT)
    SET_DEVICE_STATE_FD = 42, Row(Transfer, U64, Fds.ONE, Fds.EVENT, needs=_P.DEVICE_STATE)
    CHECK_DEVICE_STATE = 43, Row(reply=U64, needs=_P.DEVICE_STATE)
    GET_SHMEM_CONFIG = 44, Row(reply=ShmemConfig)


class BackendRequest(Kind):
    """Requests of a back-end."""

    IOTLB_MSG = 1, Row(Iotlb)
    CONFIG_CHANGE_MSG = 2, Row(needs=_P.CONFIG)
    VRING_HOST_NOTIFIER_MSG = 3, Row(VringArea, fds=Fds.EVENT, needs=_P.HOST_NOTIFIER)
    VRING_CALL = 4, Row(VringState, needs=_P.INBAND_NOTIFICATIONS)
    VRING_ERR = 5, Row(VringState, needs=_P.INBAND_NOTIFICATIONS)
    SHARED_OBJECT_ADD = 6, Row(Uuid, needs=_P.SHARED_OBJECT)
    SHARED_OBJECT_REMOVE = 7, Row(Uuid, needs=_P.SHARED_OBJECT)
    SHARED_OBJECT_LOOKUP = 8, Row(Uuid, U64, reply_fds=Fds.MAYBE, needs=_P.SHARED_OBJECT)
    SHMEM_MAP = 9, Row(ShmemMap, fds=Fds.ONE)
    SHMEM_UNMAP = 10, Row(ShmemMap)


Table = dict[int, Kind]
FRONT_END: Table = {kind.value: kind for kind in Request}
BACK_END: Table = {kind.value: kind for kind in BackendRequest}
