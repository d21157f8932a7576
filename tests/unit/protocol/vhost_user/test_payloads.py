"""Layouts, as the specification and QEMU's structures have them."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import Malformed
from protocol.vhost_user import payloads
from protocol.vhost_user.messages import BACK_END, FRONT_END, Fds, ProtocolFeature, Request
from protocol.vhost_user.payloads import U64, ConfigSpace, Inflight, MemTable, Region, SingleRegion, VringAddr

LAYOUTS = sorted({row.payload for row in (kind.row for kind in [*FRONT_END.values(), *BACK_END.values()])}, key=str)


@pytest.mark.parametrize(
    ("layout", "size"),
    [
        ("U64", 8), ("VringState", 8), ("VringAddr", 40), ("Region", 32), ("SingleRegion", 40), ("Log", 16),
        ("Iotlb", 32), ("VringArea", 24), ("Inflight", 24), ("Uuid", 16), ("Transfer", 8), ("ShmemMap", 40),
        ("ShmemConfig", 8 + 8 * 256), ("Nothing", 0),
    ],
)  # fmt: skip
def test_sizes_are_those_of_the_structures(layout: str, size: int) -> None:
    assert getattr(payloads, layout).FORMAT.size == size


def test_fields_survive_the_wire() -> None:
    region = Region(1 << 40, 4096, 7, 8192)
    for payload in (
        U64(5),
        VringAddr(1, 2, 3, 4, 5, 6),
        SingleRegion(region),
        MemTable((region, Region(0, 1, 2, 3))),
        ConfigSpace(8, 1, b"abc"),
        Inflight(1, 2, 3, 4),
        payloads.Uuid(bytes(range(16))),
        payloads.ShmemConfig(1, (5, *[0] * 255)),
        payloads.ShmemMap(1, 2, 3, 4, 1),
    ):
        assert type(payload).unpack(payload.pack()) == payload


def test_inflight_is_understood_without_the_padding_of_c() -> None:
    assert Inflight.unpack(Inflight(1, 2, 3, 4).pack()[:20]) == Inflight(1, 2, 3, 4)


def test_values_that_do_not_fit_are_refused() -> None:
    for payload in (U64(1 << 64), VringAddr(-1, 0, 0, 0, 0, 0), ConfigSpace(1 << 32, 0, b"")):
        with pytest.raises(Malformed):
            payload.pack()
    with pytest.raises(Malformed):
        MemTable((Region(0, 0, 0, 0),) * 9).pack()


@given(st.sampled_from(LAYOUTS), st.binary(max_size=400))
def test_any_bytes_are_a_payload_or_malformed(layout: type[payloads.Payload], data: bytes) -> None:
    try:
        layout.unpack(data)
    except Malformed:
        pass


def test_numbers_are_the_specification_s() -> None:
    assert [kind.value for kind in Request] == list(range(1, 45))
    assert list(BACK_END) == list(range(1, 11))
    assert (Request.GET_CONFIG, Request.SET_INFLIGHT_FD, Request.GET_STATUS) == (24, 32, 40)
    assert ProtocolFeature.STATUS == 1 << 16
    assert Request.SET_MEM_TABLE.row.fds is Fds.REGIONS
