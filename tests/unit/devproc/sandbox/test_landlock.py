"""What kernels of each version are asked for, by a table of system calls that only writes down."""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from pathlib import Path
from typing import Any

import pytest

from devproc.sandbox.landlock import Rules, Scope, Tcp, handled, restrict, version
from devproc.sandbox.rights import READ, WRITE, File


class Kernel:
    """A kernel with some version of Landlock; the ruleset is a descriptor of /dev/null, which it must close."""

    def __init__(self, abi: int, refuses: int = 0) -> None:
        self.abi, self.refuses = abi, refuses
        self.attributes = b""
        self.paths: list[tuple[File, str]] = []
        self.ports: list[tuple[int, int]] = []
        self.restricted = False
        self.ruleset = -1

    def __call__(self, number: int, *words: Any) -> int:
        values = [word.value if isinstance(word, ctypes._SimpleCData) else word for word in words]
        if number == 444 and values[2] == 1:
            assert values[:2] == [None, 0]
            return self.abi if self.abi else self._error(errno.EOPNOTSUPP)
        if number == self.refuses:
            return self._error(errno.E2BIG)
        if number == 444:
            assert values[2] == 0
            self.attributes = values[0]
            assert len(self.attributes) == values[1]
            self.ruleset = os.open("/dev/null", os.O_RDONLY)
            return self.ruleset
        assert values[0] == self.ruleset
        if number == 445 and values[1] == 1:
            rights, fd = struct.unpack("=Qi", values[2])
            self.paths.append((File(rights), os.readlink(f"/proc/self/fd/{fd}")))
        elif number == 445:
            self.ports.append(struct.unpack("=QQ", values[2]))
        else:
            assert number == 446
            self.restricted = True
        return 0

    @staticmethod
    def _error(number: int) -> int:
        ctypes.set_errno(number)
        return -1


@pytest.mark.parametrize(
    ("abi", "words"),
    [
        (1, [0x1FFF]),
        (2, [0x3FFF]),
        (3, [0x7FFF]),
        (4, [0x7FFF, 3]),
        (5, [0xFFFF, 3]),
        (6, [0xFFFF, 3, 3]),
        (7, [0xFFFF, 3, 3]),
        (99, [0xFFFF, 3, 3]),
    ],
)
def test_a_kernel_is_asked_for_all_that_its_version_can(abi: int, words: list[int]) -> None:
    kernel = Kernel(abi)
    assert restrict(Rules(), kernel) == min(abi, 7)
    assert kernel.attributes == struct.pack(f"={len(words)}Q", *words)
    assert kernel.restricted
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(kernel.ruleset)


def test_a_kernel_without_is_left_alone() -> None:
    kernel = Kernel(0)
    assert version(kernel) == 0
    assert restrict(Rules((("/", READ),)), kernel) == 0
    assert not kernel.restricted


def test_paths_get_the_rights_that_they_can_have(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.touch()
    kernel = Kernel(1)
    restrict(
        Rules(((str(tmp_path), READ), (str(file), WRITE | READ), ("/not/there", READ), (f"{file}/x", READ))), kernel
    )
    assert kernel.paths == [(READ, str(tmp_path)), (File.READ_FILE | File.WRITE_FILE, str(file))]  # no TRUNCATE yet


@pytest.mark.parametrize(("ports", "handles", "rules"), [((), 3, []), ((5, 6), 3, [(2, 5), (2, 6)]), (None, 1, [])])
def test_ports_to_connect_to_are_none_some_or_any(
    ports: tuple[int, ...] | None, handles: int, rules: list[tuple[int, int]]
) -> None:
    kernel = Kernel(4)
    restrict(Rules(tcp_connect=ports), kernel)
    assert struct.unpack("=QQ", kernel.attributes)[1] == handles
    assert kernel.ports == rules


def test_ports_are_nothing_to_a_kernel_that_cannot() -> None:
    kernel = Kernel(3)
    restrict(Rules(tcp_connect=(5,)), kernel)
    assert kernel.ports == []


@pytest.mark.parametrize("number", [444, 445, 446])
def test_what_a_kernel_refuses_is_an_error_and_nothing_stays_open(number: int) -> None:
    kernel = Kernel(4, number)
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OSError, match="landlock"):
        restrict(Rules((("/", READ),)), kernel)
    assert not kernel.restricted
    assert len(os.listdir("/proc/self/fd")) == before


def test_each_version_has_all_of_the_one_before() -> None:
    for abi in range(1, 9):
        assert all(now & before == before for now, before in zip(handled(abi + 1), handled(abi), strict=True))
    assert handled(3)[1:] == (Tcp(0), Scope(0))
