"""The server as clients of version 0 see it, byte by byte; peers that are late, slow, loud or dead; its memory."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from devproc.ivshmem.config import Config
from devproc.ivshmem.ids import Ids, Owner
from devproc.ivshmem.memory import Memory, path_of
from devproc.ivshmem.server import main
from devproc.ivshmem.service import Service
from protocol.errors import ConfigError, HostError, PeerGone, Refused
from tests.unit.devproc.ivshmem.rig import Raw, Rig, truncates
from tests.unit.devproc.vhost_rig import open_fds


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    before = open_fds()
    made = Rig(tmp_path, vectors=2)
    yield made
    made.close()
    assert open_fds() == before


def shape(client: Raw) -> list[tuple[int, bool]]:
    return [(message.value, message.fd is not None) for message in client.messages()]


def test_who_joins_is_told_in_the_protocols_order(rig: Rig) -> None:
    first = rig.join()
    assert shape(first) == [(0, False), (0, False), (-1, True), (0, True), (0, True)]
    late = rig.join()
    assert shape(late) == [(0, False), (1, False), (-1, True), (0, True), (0, True), (1, True), (1, True)]
    assert shape(first) == [(1, True), (1, True)]
    os.eventfd_write(first.session.peers[1][1], 1)
    assert os.eventfd_read(late.session.own[1]) == 1
    late.socket.close()
    rig.settle()
    assert shape(first) == [(1, False)]
    assert shape(rig.join())[1] == (2, False)


def test_the_sockets_are_this_users_alone_and_the_memory_cannot_be_cut(rig: Rig) -> None:
    client = rig.join()
    client.messages()
    assert os.fstat(client.session.memory).st_size == 4 << 20
    assert not truncates(client.session.memory)
    for name in ("s", "s.busvm", "s.peers"):
        assert not rig.path.with_name(name).stat().st_mode & 0o077


def test_who_speaks_is_dropped_and_counted(rig: Rig) -> None:
    bad, good = rig.join(), rig.join()
    bad.socket.send(b"x")
    rig.settle()
    with pytest.raises(PeerGone):
        bad.messages()
    assert (0, False) in shape(good)
    assert rig.service.counters["dropped_input"] == 1


def test_who_does_not_read_is_dropped_and_costs_bounded_memory(rig: Rig) -> None:
    rig.now = 1.0
    rig.join()
    small(rig)
    while rig.service.peers[slow_id(rig)].waiting_since is None:
        rig.join()
        rig.clients.pop().close()
        rig.settle()
    peer = rig.service.peers[slow_id(rig)]
    for _ in range(30):
        rig.join()
        rig.clients.pop().close()
        rig.settle()
    assert peer.counters["queued_most"] < 10  # what came and went in the meantime is not told
    rig.now = 10.0
    rig.service._alarm.set(0.001)
    rig.settle()
    assert not rig.service.peers
    assert rig.service.counters["dropped_slow"] == 1


def small(rig: Rig) -> None:
    """Leave the first peer's socket little room."""
    sock = rig.service.peers[slow_id(rig)].socket
    assert sock is not None
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4608)


def slow_id(rig: Rig) -> int:
    return min(rig.service.peers)


def test_an_id_is_nobodys_until_all_know_that_it_is_free(rig: Rig) -> None:
    rig.now = 1.0
    slow = rig.join()
    slow.messages()
    small(rig)
    other = rig.join()
    peer = rig.service.peers[0]
    while peer.waiting_since is None:  # fill its socket
        rig.join()
        rig.clients.pop().close()
        rig.settle()
    other.socket.close()
    rig.settle()
    rig.service.ids._next = 1
    assert peer.untold(1)
    rig.join()
    assert 1 not in rig.service.peers
    shape(slow)
    rig.settle()
    assert not peer.untold(1)
    rig.service.ids._next = 1
    rig.join()
    assert 1 in rig.service.peers


@given(st.lists(st.tuples(st.sampled_from(["join", "leave", "speak", "garbage"]), st.binary(min_size=1, max_size=80))))
@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_whatever_clients_do_the_others_are_served(rig: Rig, steps: list[tuple[str, bytes]]) -> None:
    for what, data in steps:
        if what == "join" and len(rig.clients) < 8:
            rig.join()
        elif what == "garbage":
            client = Raw(rig.path.with_name("s.busvm"))
            client.socket.send(data)
            rig.settle()
            client.close()
        elif rig.clients:
            client = rig.clients.pop(len(data) % len(rig.clients))
            if what == "speak":
                client.socket.send(data)
                rig.settle()
            client.close()
        rig.settle()
    assert len(rig.service.peers) == len(rig.clients)
    for client in rig.clients:
        client.messages()
    for client in rig.clients:
        assert {client.session.id, *client.session.peers} == set(rig.service.peers)
    while rig.clients:
        rig.clients.pop().close()
    rig.settle()


def test_a_hello_that_does_not_end_is_not_waited_for(rig: Rig) -> None:
    rig.now = 1.0
    client = Raw(rig.path.with_name("s.busvm"))
    rig.clients.append(client)
    rig.settle()
    rig.now = 10.0
    rig.service._alarm.set(0.001)
    rig.settle()
    assert client.receiver.receive() == (-5, None)
    assert rig.service.counters["refused"] == 1


def test_named_memory_is_kept_and_no_other_server_has_it(tmp_path: Path) -> None:
    path = str(tmp_path / "memory")
    first = Memory.named(Path(path), 8192)
    os.pwrite(first.fd, b"kept", 0)
    with pytest.raises(HostError, match="another server"):
        Memory.named(Path(path), 8192)
    first.close()
    with pytest.raises(ConfigError, match="has 8K, not 16K"):
        Memory.named(Path(path), 16384)
    second = Memory.named(Path(path), 8192)
    assert second.kept
    assert os.pread(second.fd, 4, 0) == b"kept"
    second.close()
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(HostError, match="link"):
        Memory.named(tmp_path / "link", 8192)
    assert path_of("lan").name == f"busvm-{os.getuid()}.ivshmem.lan"


def test_ids_are_kept_for_names_and_for_processes_that_live(tmp_path: Path) -> None:
    ids = Ids(tmp_path / "ids")
    ids.begin((1, 2))
    me, gone = Owner.of(os.getpid()), Owner(2**22 + 1, 5)
    assert [ids.take(gone, -1, ()), ids.take(me, -1, ()), ids.take(Owner(2**22, 5, "net"), -1, ())] == [0, 1, 2]
    again = Ids.load(tmp_path / "ids")
    again.begin((1, 2))
    assert again.take(Owner.of(os.getpid(), "net"), -1, ()) == 2
    assert again.take(me, 1, ()) == 1
    assert again.take(me, 0, ()) == 3  # it was not its own
    again.begin((1, 3))
    assert not again.owners  # other memory, other peers
    (tmp_path / "ids").write_text(json.dumps({"memory": 1}))
    assert not Ids.load(tmp_path / "ids").owners


def test_ids_are_given_up_to_the_last_one() -> None:
    ids = Ids()
    ids._next = 65535
    assert [ids.take(Owner.of(os.getpid()), -1, ()) for _ in range(2)] == [65535, 0]
    with pytest.raises(Refused):
        ids.take(Owner.of(os.getpid()), -1, range(65536))


def test_two_servers_do_not_share_a_socket(rig: Rig) -> None:
    with pytest.raises(HostError, match="another process listens"):
        Service(Config(rig.path))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "3M"], "size 3M is no power of two from 4K on (4M:"),
        (["--size", "2K"], "(4K:"),
        (["--size", "much"], "'much' is no size"),
        (["--vectors", "0"], "0 vectors (1 to 64)"),
        (["--vectors", "65"], "65 vectors"),
        (["--memory", "a b"], "'a b' is no name of memory"),
        (["--bus", "unix:path=/x"], "is no id"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["--socket", str(tmp_path / "s"), *arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_it_is_found_at_another_place_too(tmp_path: Path) -> None:
    link = tmp_path / "there"
    link.symlink_to(tmp_path / "an earlier one")
    rig = Rig(tmp_path, link=link)
    client = Raw(link)
    rig.clients.append(client)
    rig.settle()
    assert client.messages()
    assert (tmp_path / "there.busvm").exists()
    rig.close()
    assert not link.is_symlink()
    link.write_text("something else")
    with pytest.raises(HostError, match="exists"):
        Rig(tmp_path, link=link)
    assert link.read_text() == "something else"
