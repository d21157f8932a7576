"""One conversation over a private bus; the test runs it with either D-Bus library in a process of its own."""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
from typing import Any

from protocol import interfaces, names
from protocol.bus import Bus, BusError, Fd, Variant
from protocol.errors import NotFound, ProtocolError
from protocol.objects import Tree

DEVICE1 = "org.busvm.Device1"
PROPERTIES = "org.freedesktop.DBus.Properties"
PATH = names.device_path("probe")


class Device:
    """Stands where a device stands; one of its getters fails on purpose."""

    id, type, transport, state, description = "probe", "test", "pci", "waiting", "a device for a test"
    pid, epoch, page_size, page_version, vectors, doorbells = 1, 0, 4096, 1, 2, 3
    configuration: dict[str, str] = {"image": "none"}  # noqa: RUF012
    received: dict[str, Any] | None = None

    @property
    def counters(self) -> dict[str, int]:
        raise ValueError("no counters today")

    async def attach(self, offer: dict[str, Any]) -> dict[str, Variant]:
        self.received = offer
        return {"size": Variant("t", os.fstat(offer["ram"]).st_size)}

    def detach(self) -> None:
        raise ProtocolError("not attached")

    def reset(self) -> None:
        raise RuntimeError("a fault of our own")


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


async def error_of(bus: Bus, *call: Any) -> str:
    try:
        await bus.call(names.device_name("probe"), *call)
    except BusError as error:
        return error.name
    raise AssertionError(f"no error from {call}")


async def converse(address: str) -> None:
    server, client = await Bus.connect(address), await Bus.connect(address)
    device, tree = Device(), Tree(server, names.ROOT_PATH)
    tree.add(PATH, DEVICE1, device)
    changes: list[tuple[str, str, str]] = []
    await client.watch_names(lambda *change: changes.append(change))
    name = names.device_name("probe")
    await server.request_name(name)
    assert await client.peer_pid(name) == os.getpid()

    # descriptors arrive, flat in variants, and the sender keeps its own
    with tempfile.TemporaryFile() as file:
        file.truncate(12345)
        before = open_descriptors()
        offer = {"ram": Variant("h", Fd(file.fileno())), "doorbells": Variant("ah", [Fd(file.fileno())] * 3)}
        answer = await client.call(name, PATH, DEVICE1, "Attach", "a{sv}", [offer])
        assert answer == [{"size": 12345}], answer
        assert device.received is not None
        received = [device.received["ram"], *device.received["doorbells"]]
        assert len(set(received)) == 4
        # with the call they are closed, also those of a call that nobody takes, or that takes none
        for member, error in (("NoSuch", "UnknownMethod"), ("Reset", "InvalidArgs"), ("Attach", "")):
            calls = [client.call(name, PATH, DEVICE1, member, "a{sv}", [offer]) for _ in range(5)]
            quick = [client.call(name, PATH, DEVICE1, "Detach") for _ in range(5)]  # in between, without any
            mixed = [call for pair in zip(quick, calls, strict=True) for call in pair]
            answers = await asyncio.gather(*mixed, return_exceptions=True)
            assert all(str(getattr(answer, "name", "")).endswith(error) for answer in answers[1::2]), answers
        assert open_descriptors() == before

    # errors by kind, never a traceback
    assert (await error_of(client, PATH, DEVICE1, "Attach", "s", ["x"])).endswith("InvalidArgs")
    assert await error_of(client, PATH, DEVICE1, "Detach") == "org.busvm.Error.ProtocolError"
    assert await error_of(client, PATH, DEVICE1, "Reset") == "org.busvm.Error.Internal"
    assert (await error_of(client, PATH, PROPERTIES, "Get", "ss", [DEVICE1, "Nope"])).endswith("UnknownProperty")
    assert (await error_of(client, PATH, PROPERTIES, "Get", "ss", ["org.example.No", "Id"])).endswith("Interface")
    readonly = [DEVICE1, "Id", Variant("s", "other")]
    assert (await error_of(client, PATH, PROPERTIES, "Set", "ssv", readonly)).endswith("PropertyReadOnly")

    # one bad getter hides nothing else
    values = (await client.call(name, PATH, PROPERTIES, "GetAll", "s", [DEVICE1]))[0]
    assert values["PageSize"] == 4096
    assert "Counters" not in values
    managed = (await client.call(name, names.ROOT_PATH, "org.freedesktop.DBus.ObjectManager", "GetManagedObjects"))[0]
    assert managed[PATH][DEVICE1]["Id"] == "probe"

    # what is introspected is the contract, and no parent is empty
    text = (await client.call(name, PATH, "org.freedesktop.DBus.Introspectable", "Introspect"))[0]
    shown = {interface.name: interface for interface in interfaces.parse(text)}
    assert shown[DEVICE1] == interfaces.load(DEVICE1)
    for parent in ("/", "/org", "/org/busvm", "/org/busvm/device"):
        text = (await client.call(name, parent, "org.freedesktop.DBus.Introspectable", "Introspect"))[0]
        assert "<node name=" in text, parent

    server.close()
    await asyncio.wait_for(server.wait_closed(), 5)
    for _ in range(100):
        if any(changed == name and not new for changed, _old, new in changes):
            break
        await asyncio.sleep(0.01)
    else:
        raise AssertionError("the end of a process was not seen")
    try:
        await client.call(name, PATH, DEVICE1, "Detach")
        raise AssertionError("nobody answered, and no error")
    except NotFound:
        pass
    client.close()


if __name__ == "__main__":
    asyncio.run(asyncio.wait_for(converse(sys.argv[1]), 30))
    print("conversation went well", os.environ.get("BUSVM_DBUS", "dbus_fast"))
