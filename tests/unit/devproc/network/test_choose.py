"""libslirp where it is there, passt where that will do, and otherwise what to install."""

from __future__ import annotations

from typing import Any

import pytest

from devproc.network.choose import choose
from devproc.network.passt import PasstConfig
from devproc.network.user_config import UserConfig
from protocol.errors import HostError


def chosen(config: UserConfig, *, library: bool, program: bool) -> UserConfig | PasstConfig:
    return choose(config, lambda: library, lambda: program)


@pytest.mark.parametrize("program", [True, False])
def test_the_library_comes_first(program: bool) -> None:
    config = UserConfig()
    assert chosen(config, library=True, program=program) is config


def test_passt_stands_in(caplog: pytest.LogCaptureFixture) -> None:
    config = UserConfig(forward=("tcp::2222:22",), mtu=1500, ipv6=False, domain_search=("a.b",), host_loopback=False)
    assert chosen(config, library=False, program=True) == PasstConfig(
        forward=("tcp::2222:22",), mtu=1500, ipv6=False, domain_search=("a.b",), host_loopback=False
    )
    assert "passt" in caplog.text


@pytest.mark.parametrize(
    "wanted",
    [
        {"restrict": True},
        {"network": "10.0.3.0/24"},
        {"bootfile": "x"},
        {"hostname": "x"},
        {"guest_forward": ("tcp:10.0.2.100:1:cat",)},
        {"forward": ("unix:/x:22",)},
        {"forward": ("tcp::1:10.0.2.20:22",)},
    ],
)
def test_passt_does_not_stand_in_for_what_it_cannot_do(wanted: dict[str, Any]) -> None:
    with pytest.raises(HostError, match=next(iter(wanted))) as caught:
        chosen(UserConfig(**wanted), library=False, program=True)
    assert "apt install libslirp0" in str(caught.value.hint)


def test_without_either_there_is_a_hint() -> None:
    with pytest.raises(HostError) as caught:
        chosen(UserConfig(), library=False, program=False)
    assert "apt install libslirp0" in str(caught.value.hint)
