"""Layouts: fields do not overlap, are aligned, have one writer, and unknown versions are refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import pairwise

import pytest

from protocol.errors import VersionMismatch
from protocol.layout import BARS, BarFlags, ClockPage, DevicePage, IrqPage, Layout, ReadKind, WriteKind, kind
from protocol.memory import Shared

LAYOUTS = [DevicePage, IrqPage, ClockPage]


@pytest.fixture
def page_of() -> Iterator[Callable[[type[Layout]], Layout]]:
    made: list[Shared] = []

    def make(layout: type[Layout]) -> Layout:
        fd = os.memfd_create("page")
        os.ftruncate(fd, IrqPage.SIZE)
        made.append(Shared(fd, IrqPage.SIZE))
        return layout(made[-1])

    yield make
    for shared in made:
        shared.close()


@pytest.mark.parametrize("layout", LAYOUTS)
def test_fields_are_aligned_apart_and_documented(layout: type[Layout]) -> None:
    fields = layout.fields()
    for field in fields:
        assert field.offset % field.width == 0, field.name
        assert field.writer in ("cpu", "device"), field.name
        assert field.doc, field.name
    for one, two in pairwise(fields):
        assert one.offset + one.width <= two.offset, (one.name, two.name)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_magic_or_version_is_refused(layout: type[Layout], page_of: Callable[[type[Layout]], Layout]) -> None:
    page = page_of(layout)
    with pytest.raises(VersionMismatch, match="magic"):
        page.check()
    page.format()
    page.check()
    page.version = layout.VERSION + 1
    with pytest.raises(VersionMismatch, match="version"):
        page.check()


def test_the_bar_table_lies_between_header_and_config(page_of: Callable[[type[Layout]], Layout]) -> None:
    page = page_of(DevicePage)
    assert isinstance(page, DevicePage)
    for index in range(BARS):
        page.bar(index).set(0x1000 << index, 0x8000, 0x9000, BarFlags.BITS64)
    assert [page.bar(i).size for i in range(BARS)] == [0x1000 << i for i in range(BARS)]
    assert page.bar(0).flags == BarFlags.BITS64
    table, calls = range(0x80, 0x80 + 0x20 * BARS), 0x200
    assert not [field.name for field in DevicePage.fields() if field.offset in table]
    assert max(field.offset + field.width for field in DevicePage.fields()) <= calls
    assert not any(page.shared.bytes(0x80 + BARS * 0x20, 0x100))


def test_raising_a_source_sets_its_word_and_look(page_of: Callable[[type[Layout]], Layout]) -> None:
    page = page_of(IrqPage)
    assert isinstance(page, IrqPage)
    page.raise_(7, 3)
    assert (page.word(7), page.word(6), page.shared.u8[IrqPage.LOOK]) == (3, 0, 1)


def test_a_kind_byte_holds_both_directions() -> None:
    value = kind(ReadKind.PAGE, WriteKind.DOORBELL)
    assert (value & 15, value >> 4) == (ReadKind.PAGE, WriteKind.DOORBELL)
