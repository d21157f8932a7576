"""Who has connected."""

from __future__ import annotations

import os
import socket

import pytest

from protocol.peer import credentials, is_admitted


def test_this_process_is_known_and_let_in() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert credentials(ours) == (os.getpid(), os.getuid(), os.getgid())
        assert is_admitted(ours)


@pytest.mark.parametrize(("uid", "admitted"), [(0, True), (65534, False)])
def test_others_are_not_but_for_root(monkeypatch: pytest.MonkeyPatch, uid: int, admitted: bool) -> None:
    monkeypatch.setattr("protocol.peer.credentials", lambda _sock: type("C", (), {"uid": uid}))
    ours, theirs = socket.socketpair()
    with ours, theirs:
        monkeypatch.setattr(os, "getuid", lambda: 1000)
        assert is_admitted(ours) is admitted


def test_a_network_says_nothing_of_users() -> None:
    with socket.socket() as sock:
        assert is_admitted(sock)
