"""The list of denied calls, by a library that only writes down."""

from __future__ import annotations

import ctypes
import errno
import socket
from typing import Any

import pytest

from devproc.sandbox import seccomp
from devproc.sandbox.seccomp import Compare, Rule, rules

ME = 4711


class Library:
    """libseccomp, as far as it is used; it has never heard of ``unknown``."""

    def __init__(self, unknown: str = "", result: int = 0) -> None:
        self.unknown, self.result = unknown.encode(), result
        self.names: list[bytes] = []
        self.added: list[tuple[int, bytes, tuple[int, ...]]] = []
        self.released = self.all_threads = False

    def seccomp_init(self, action: int) -> int:
        assert action == 0x7FFF_0000
        return 1

    def seccomp_attr_set(self, _filter: int, attribute: int, value: int) -> int:
        self.all_threads = (attribute, value) == (4, 1)
        return 0

    def seccomp_syscall_resolve_name(self, name: bytes) -> int:
        self.names.append(name)
        return -1 if name == self.unknown else len(self.names) - 1

    def seccomp_rule_add_array(self, _filter: int, action: int, number: int, count: int, argument: Any) -> int:
        found = argument._obj if count else None
        values = (found.number, found.compare, found.first, found.second) if found else ()
        self.added.append((action, self.names[number], values))
        return 0

    def seccomp_load(self, _filter: int) -> int:
        return self.result

    def seccomp_release(self, _filter: int) -> None:
        self.released = True


def refused(call: str, value: int, **what: bool) -> bool:
    """Return whether a call with this first argument gets an error."""
    compare = {
        Compare.NE: lambda rule: value != rule.value,
        Compare.EQ: lambda rule: value == rule.value,
        Compare.GT: lambda rule: value > rule.value,
        Compare.MASKED_EQ: lambda rule: value & rule.mask == rule.value,
    }
    found = [rule for rule in rules(ME, **({"internet": False, "programs": False} | what)) if rule.call == call]
    return any(rule.argument < 0 or compare[rule.compare](rule) for rule in found)


@pytest.mark.parametrize("internet", [False, True])
@pytest.mark.parametrize("call", ["socket", "socketpair"])
def test_sockets_are_of_the_families_that_are_needed(call: str, internet: bool) -> None:
    allowed = {int(socket.AF_UNIX)} | ({int(socket.AF_INET), int(socket.AF_INET6)} if internet else set())
    every = {*range(64), 1 << 32, (1 << 32) + 1, (1 << 64) - 1}
    assert {family for family in every if not refused(call, family, internet=internet)} == allowed


def test_threads_and_signals_to_itself_are_all_there_is_of_processes() -> None:
    assert not refused("clone", 0x3D0F00)  # what pthread_create asks for
    assert refused("clone", 0x1200011)  # and fork
    assert not refused("kill", ME)
    assert refused("kill", 1)
    assert refused("tgkill", ME + 1)
    assert not refused("prlimit64", 0)
    assert all(refused(call, 0) for call in ("execve", "fork", "clone3", "io_uring_setup"))


def test_who_starts_programs_keeps_what_these_need() -> None:
    left = {rule.call for rule in rules(ME, internet=True, programs=True)}
    assert {"ptrace", "bpf"} <= left
    assert not left & {"execve", "clone", "socket", "mount", "unshare", "setuid", "kill"}


def test_the_filter_is_for_all_threads_and_what_is_unknown_is_left_out() -> None:
    library = Library("bpf")
    denied = [Rule("ptrace", 1), Rule("bpf", 1), Rule("clone", 2, 0, Compare.MASKED_EQ, 0, 0x10000)]
    written = seccomp.Filter(library, denied)
    assert written.count == 2
    assert not library.released
    written.load()
    assert library.added == [(1, b"ptrace", ()), (2, b"clone", (0, 7, 0x10000, 0))]
    assert library.released
    assert library.all_threads


def test_a_kernel_without_is_an_error() -> None:
    library = Library(result=-errno.EINVAL)
    with pytest.raises(OSError, match="seccomp"):
        seccomp.Filter(library, []).load()
    assert library.released


def test_a_host_without_the_library_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seccomp, "LIBRARY", "libnone.so")
    assert seccomp.library.__wrapped__() is None


@pytest.mark.skipif(seccomp.library() is None, reason="no libseccomp")
def test_the_library_knows_the_calls_of_this_architecture() -> None:
    resolve = seccomp.library().seccomp_syscall_resolve_name
    resolve.argtypes = [ctypes.c_char_p]
    assert all(resolve(name.encode()) >= 0 for name in ("execve", "ptrace", "clone", "socket", "io_uring_setup"))
