"""The XML files are the contract: complete, named, and what the implementations have."""

from __future__ import annotations

import pytest

from cpu_proc.exported import FUNCTION1, HART1, MACHINE1, Function1, Hart1, Machine1
from devproc.exported import DEVICE1, QUEUES1, REGISTERS1
from devproc.exported import Device1 as DeviceObject
from devproc.virtio_blk.exported import BLOCK1, Block1
from protocol import interfaces
from protocol.objects import attribute, interfaces_types


@pytest.mark.parametrize("name", interfaces.names())
def test_every_file_describes_its_interface_with_named_arguments(name: str) -> None:
    interface = interfaces.load(name)
    for line in interface.xml.splitlines():
        if "<arg " in line:
            assert 'name="' in line, line
    for declared in interface.properties.values():
        assert len(interfaces_types(declared.type)) == 1
        assert declared.access in ("read", "readwrite")


@pytest.mark.parametrize(
    ("name", "implementation"),
    [(MACHINE1, Machine1), (HART1, Hart1), (FUNCTION1, Function1), (DEVICE1, DeviceObject), (BLOCK1, Block1)],
)
def test_methods_are_implemented(name: str, implementation: type) -> None:
    for method in interfaces.load(name).methods:
        assert callable(getattr(implementation, attribute(method), None)), f"{name}.{method}"


def test_device_interfaces_have_files() -> None:
    assert {DEVICE1, REGISTERS1, QUEUES1} <= set(interfaces.names())


@pytest.mark.parametrize(
    ("signature", "types"),
    [
        ("", []),
        ("ss", ["s", "s"]),
        ("a{sv}h", ["a{sv}", "h"]),
        ("a(tts)aay", ["a(tts)", "aay"]),
        ("(u(st))v", ["(u(st))", "v"]),
    ],
)
def test_signatures_are_split_into_types(signature: str, types: list[str]) -> None:
    assert interfaces_types(signature) == types


@pytest.mark.parametrize(("member", "name"), [("PageSize", "page_size"), ("Id", "id"), ("GetAll", "get_all")])
def test_members_have_python_names(member: str, name: str) -> None:
    assert attribute(member) == name
