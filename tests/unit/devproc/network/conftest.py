"""Networks of the tests' own, so that nothing of theirs is seen or needed outside."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

_NEWNET = 0x4000_0000


@pytest.fixture
def namespace() -> Iterator[None]:
    """Put this thread, and what it starts, into a network of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    if libc.unshare(_NEWNET):
        os.close(before)
        pytest.skip("no network namespace without privileges")
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("1")  # it would have things to say
    yield
    assert not libc.setns(before, _NEWNET)
    os.close(before)


@pytest.fixture
def outside(namespace: None) -> None:
    """Give that network a way out that ends nowhere: passt wants one."""
    Path("/proc/sys/net/ipv6/conf/default/disable_ipv6").write_text("0")
    for line in (
        "link set lo up", "link add up0 type veth peer name far0", "addr add 192.0.2.2/24 dev up0",
        "addr add 2001:db8::2/64 dev up0 nodad", "link set far0 up", "link set up0 up",
        "route add default via 192.0.2.1", "route add default via 2001:db8::1",
    ):  # fmt: skip
        subprocess.run(["ip", *line.split()], check=True)
