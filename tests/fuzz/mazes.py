"""Random programs with control flow: places that jump to one another for ever, over pages that change.

Code is a number of pages of slots; each slot is some random instructions and, at its very end, a jump or a branch to
the beginning of another slot, or on to the next. Jumps are relative, or by a table, or by what a slot has noted of
itself. Slots also store instructions into others and fence, read counters, and load and store where there is nothing,
or across pages. There are two sets of pages with the same places. In the paged form the program is in S mode and each
page of two virtual areas shows one set or the other; a routine exchanges them and fences. Traps are for M mode, which
steps over.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass

from tests.fuzz import programs
from tests.fuzz.image import Code
from tests.unit.cpu_proc.harness import (
    FENCE_I,
    MRET,
    RAM,
    RWX,
    V,
    W,
    addi,
    b_type,
    csrrc,
    csrrs,
    csrrw,
    i_type,
    jal,
    jalr,
    li,
    load,
    r_type,
    sfence,
    store,
)

MEMORY = 16 << 20
SLOT, PAGES = 128, 8
SLOTS = PAGES * 4096 // SLOT
SETS = (RAM + 0x1_0000, RAM + 0x1_0000 + PAGES * 4096)
AREAS = (0x10_0000_0000, 0x10_0020_0000 - PAGES * 4096)  # the second ends where a table does
TABLES, CONTEXT = RAM + 0x8_0000, RAM + 0x9_0000
DATA = (RAM + (4 << 20), RAM + (8 << 20), RAM + (12 << 20))  # one place of the TLB for all
NOWHERE = 0x7000_0000

# What x31 points into the middle of: tables of doublewords, and what the handler and the slots note
TARGETS, POINTERS, WILD, WORDS, ENTRIES, PAIRS, NOTED, SAVED = -2048, -1024, -768, -512, -256, 0, 256, 512
EXCHANGE, SUM, RANDOM = 528, 560, 568
_COUNT = {TARGETS: 128, POINTERS: 32, WILD: 32, WORDS: 32, ENTRIES: 32, PAIRS: 32, NOTED: 32}
_COUNTERS = (0xC00, 0xC01, 0xC02)
_PATCHED = 4  # bytes into a slot: the instruction that others replace
_SHARED = 0x10_0000_0000 + (64 << 12)  # data in the virtual areas: writable, not writable, not there


@dataclass
class _Maze:
    """What the slots are made with."""

    chosen: random.Random
    paged: bool

    def entry(self, table: int) -> int:
        """Return the offset of any entry of a table."""
        return table + 8 * self.chosen.randrange(_COUNT[table])

    def register(self, *but: int) -> int:
        """Return a register that nothing depends on."""
        return self.chosen.choice([n for n in range(1, 32) if n not in (*programs.RESERVED, *but)])


def _body(maze: _Maze) -> list[int]:
    """Return some instructions that go on to the next."""
    chosen = maze.chosen
    kind = chosen.randrange(20)
    one = maze.register()
    other = maze.register(one)
    if kind < 3:  # an access to anywhere
        offset = chosen.randint(-16, 16)
        access = chosen.choice(
            [load(w, other, one, offset) for w in ("b", "hu", "w", "d")]
            + [store(w, other, one, offset) for w in ("b", "h", "w", "d")]
        )
        return [load("d", one, 31, maze.entry(WILD)), access]
    if kind < 5:
        return [load("d", chosen.choice((2, 8, 30)), 31, maze.entry(POINTERS))]
    if kind == 5:
        return [csrrs(one, chosen.choice(_COUNTERS))]
    if kind == 6 and chosen.random() < 0.5:  # a new instruction in another slot
        words = [load("d", one, 31, maze.entry(TARGETS)), load("wu", other, 31, maze.entry(WORDS))]
        return [*words, store("w", other, one, _PATCHED), FENCE_I]
    return programs.mixed(chosen)


def _ahead(maze: _Maze, slot: int, reach: int) -> int:
    """Return how many bytes ahead another slot is, at most ``reach``."""
    return SLOT * (maze.chosen.randint(slot + 1, min(SLOTS - 1, slot + reach // SLOT)) - slot)


def _draw(register: int, bits: int) -> list[int]:
    """Return what puts a random number into a register: a linear congruence in memory."""
    return [
        load("d", register, 31, RANDOM),
        r_type(0x33, 4, 0x10, register, register, register),  # sh2add: five times
        addi(register, register, 1001),
        store("d", register, 31, RANDOM),
        i_type(0x13, 5, register, register, 64 - bits),
    ]


def _anywhere(maze: _Maze, register: int) -> list[int]:
    """Return what puts the address of a slot into a register."""
    table = maze.chosen.choice((TARGETS, TARGETS, NOTED))
    index = _draw(register, _COUNT[table].bit_length() - 1)
    shift = i_type(0x13, 1, register, register, 3)
    return [*index, shift, r_type(0x33, 0, 0, register, register, 31), load("d", register, register, table)]


def _end(maze: _Maze, slot: int) -> list[int]:
    """Return what leaves a slot: ahead, or by chance back, so that no circle is for ever.

    The distance of a jump counts from its last instruction, which ends the slot.
    """
    chosen = maze.chosen
    kind = chosen.randrange(20) if slot != SLOTS - 1 else 0
    one = maze.register()
    link = chosen.choice((0, 0, 1, 5))
    last = 4 - SLOT  # from the last instruction back to the beginning, for four bytes
    if kind < 3:
        return [*_anywhere(maze, one), jalr(link, one, kind & 1)]
    if kind < 5:
        return [*_anywhere(maze, one), chosen.choice((0x8002, 0x9002)) | one << 7]  # c.jr, c.jalr
    if kind < 8:
        back = -SLOT * chosen.randint(0, min(slot, 3))
        return [*_draw(one, chosen.choice((1, 3, 6))), b_type(1, one, 0, back + last)]
    if kind < 13:
        branch = chosen.choice((0, 1, 4, 5, 6, 7))
        return [b_type(branch, chosen.randrange(32), chosen.randrange(32), _ahead(maze, slot, 3800) + last)]
    if kind == 13:
        return [_c_j(_ahead(maze, slot, 1900) + last - 2)]
    if kind == 14:
        return [_c_branch(chosen, _ahead(maze, slot, SLOT) + last - 2)]
    if kind < 17 and maze.paged:
        return [load("d", one, 31, EXCHANGE), jalr(7, one)]
    return [jal(link, _ahead(maze, slot, 6000) + last)]


def _c_j(offset: int) -> int:
    bits = ((11, 12), (4, 11), (9, 10), (8, 9), (10, 8), (6, 7), (7, 6), (3, 5), (2, 4), (1, 3), (5, 2))
    return 0xA001 | sum((offset >> source & 1) << place for source, place in bits)


def _c_branch(chosen: random.Random, offset: int) -> int:
    bits = ((8, 12), (4, 11), (3, 10), (7, 6), (6, 5), (2, 4), (1, 3), (5, 2))
    register = chosen.randrange(8) << 7
    return chosen.choice((0xC001, 0xE001)) | register | sum((offset >> source & 1) << place for source, place in bits)


def _size(words: list[int]) -> int:
    return sum(4 if word & 3 == 3 else 2 for word in words)


def _slot(maze: _Maze, number: int) -> bytes:
    chosen = maze.chosen
    note = maze.register()
    first = [0x0001, 0x0001, addi(5, 5, chosen.randint(-2048, 2047))]  # c.nop: what may lie across a page ends so
    if chosen.random() < 0.15:  # auipc: where this slot is, by the address it has now
        first += [note << 7 | 0x17, addi(note, note, -_size(first)), store("d", note, 31, maze.entry(NOTED))]
    end = _end(maze, number)
    words: list[int] = []
    room = SLOT - _size(first) - _size(end)
    while len(words) < chosen.choice((1, 4, 12, 40)):
        more = _body(maze)
        if _size(words) + _size(more) > room:
            break
        words += more
    words += [0x0001] * ((room - _size(words)) // 2 % 2)
    words += [addi(0, 0, 0)] * ((room - _size(words)) // 4)
    if number % (4096 // SLOT) == 4096 // SLOT - 1 and chosen.random() < 0.5 and number != SLOTS - 1:
        # addi note, x2, 0 of which the second half is the c.nop that the next page begins with
        half = (2 << 15 | note << 7 | 0x13) & 0xFFFF
        data = _bytes([*first, *words])
        return data + b"\x01\0" * ((SLOT - 2 - len(data)) // 2) + struct.pack("<H", half)
    return _bytes([*first, *words, *end])


def _bytes(words: list[int]) -> bytes:
    return b"".join(word.to_bytes(4 if word & 3 == 3 else 2, "little") for word in words)


def _handler(code: Code, paged: bool) -> int:
    """Append what steps over an instruction that traps, and sums up causes and values."""
    start = code.here
    code.add(store("d", 29, 31, SAVED), store("d", 28, 31, SAVED + 8))
    for csr in ("mcause", "mtval"):
        code.add(csrrs(29, csr), load("d", 28, 31, SUM), r_type(0x33, 0, 0, 28, 28, 29))
        code.add(store("d", 28, 31, SUM))
    code.add(csrrs(29, "mepc"), *([addi(28, 0, 1), i_type(0x13, 1, 28, 28, 17)] if paged else []))
    code.add(*([csrrs(0, "mstatus", 28)] if paged else []))  # MPRV: as the program sees it
    code.add(load("hu", 29, 29))
    code.add(*([csrrc(0, "mstatus", 28)] if paged else []))
    code.add(i_type(0x13, 7, 29, 29, 3), addi(29, 29, -3), csrrs(28, "mepc"), addi(28, 28, 2))
    code.add(b_type(1, 29, 0, 8), addi(28, 28, 2), csrrw(0, "mepc", 28))
    code.add(load("d", 28, 31, SAVED + 8), load("d", 29, 31, SAVED), MRET)
    return start


def _exchange(code: Code) -> int:
    """Append the routine that shows the other set in a page of the virtual areas; the next time, another page."""
    start = code.here
    code.add(
        load("d", 5, 31, EXCHANGE + 8), addi(5, 5, 8), i_type(0x13, 7, 5, 5, 0xF8), store("d", 5, 31, EXCHANGE + 8),
        r_type(0x33, 0, 0, 5, 5, 31), load("d", 6, 5, ENTRIES), load("d", 5, 5, PAIRS), load("d", 1, 6),
        r_type(0x33, 4, 0, 1, 1, 5), store("d", 1, 6), sfence(), jalr(0, 7),
    )  # fmt: skip
    return start


def _slots(maze: _Maze) -> list[int]:
    """Return where slots are entered: in either set, or in a virtual area."""
    places = (*SETS, *AREAS) if maze.paged else SETS
    return [maze.chosen.choice(places) + SLOT * maze.chosen.randrange(SLOTS) for _ in range(_COUNT[TARGETS])]


def _data(maze: _Maze) -> int:
    return maze.chosen.choice(DATA) + 4096 * maze.chosen.randrange(4)


def _wild(maze: _Maze) -> int:
    """Return an address that may be wrong, or such that an access of it goes wrong half way."""
    ends = [_data(maze) + 4096, DATA[0], RAM + MEMORY]
    if maze.paged:
        ends += [_SHARED, _SHARED + 4096, _SHARED + 8192, _SHARED + 12288]
    return maze.chosen.choice([NOWHERE, *ends]) + maze.chosen.randint(-9, 9)


def _leaf(physical: int, flags: int = RWX) -> int:
    return physical >> 12 << 10 | flags


def _entries(number: int) -> tuple[int, int]:
    """Return where an entry of the last table is, and what exchanges the two sets there."""
    area, page = divmod(number % (2 * PAGES), PAGES)
    at = TABLES + 0x2000 + 8 * ((AREAS[area] >> 12 & 511) + page)
    return at, _leaf(SETS[0] + 4096 * page) ^ _leaf(SETS[1] + 4096 * page)


def _context(maze: _Maze, exchange: int) -> bytes:
    chosen = maze.chosen
    entries = [_entries(number) for number in range(_COUNT[ENTRIES])]
    tables = {
        TARGETS: _slots(maze),
        POINTERS: [_data(maze) + 2560 for _ in range(_COUNT[POINTERS])],
        WILD: [_wild(maze) for _ in range(_COUNT[WILD])],
        WORDS: [programs.value(chosen) for _ in range(_COUNT[WORDS])],
        ENTRIES: [at for at, _ in entries],
        PAIRS: [both for _, both in entries],
        NOTED: _slots(maze)[: _COUNT[NOTED]],
        EXCHANGE: [exchange],
    }
    page = bytearray(4096)
    for offset, values in tables.items():
        struct.pack_into(f"<{len(values)}Q", page, 2048 + offset, *values)
    return bytes(page)


def _tables(maze: _Maze) -> bytes:
    root, middle, last = [0] * 512, [0] * 512, [0] * 512
    root[RAM >> 30] = _leaf(RAM)
    root[AREAS[0] >> 30] = _leaf(TABLES + 0x1000, V)
    middle[0] = _leaf(TABLES + 0x2000, V)
    for area in AREAS:
        for page in range(PAGES):
            last[(area >> 12 & 511) + page] = _leaf(maze.chosen.choice(SETS) + 4096 * page)
    shared = _SHARED >> 12 & 511
    last[shared], last[shared + 1] = _leaf(DATA[0]), _leaf(DATA[1], RWX & ~W)
    last[shared + 3] = _leaf(DATA[2])
    return struct.pack("<1536Q", *root, *middle, *last)


def _begin(code: Code, maze: _Maze, handler: int) -> None:
    """Append what sets up the machine and enters a slot."""
    mode = 1 if maze.paged else 3
    settings = {
        "mtvec": handler,
        "mstatus": mode << 11 | 1 << 13,
        "pmpaddr0": (1 << 54) - 1,
        "pmpcfg0": 0x1F,
        "mcounteren": 7,
        "satp": (8 << 60 | TABLES >> 12) if maze.paged else 0,
        "mepc": _slots(maze)[0],
    }
    for csr, value in settings.items():
        code.add(*li(5, value), csrrw(0, csr, 5))
    for register in range(1, 31):
        value = _data(maze) + 2560 if register in programs.RESERVED else programs.integer(maze.chosen)
        code.add(*li(register, value))
    code.add(*li(31, CONTEXT + 2048), MRET)


def build(seed: int, paged: bool) -> bytes:
    """Return an image for the start of RAM, to be entered there; it never ends."""
    maze = _Maze(random.Random(f"{seed} {paged}"), paged)
    code = Code()
    code.add(jal(0, 0))
    handler, exchange = _handler(code, paged), _exchange(code)
    code.code[:4] = jal(0, code.here - RAM).to_bytes(4, "little")
    _begin(code, maze, handler)
    parts = {RAM: bytes(code.code), TABLES: _tables(maze), CONTEXT: _context(maze, exchange)}
    for place in SETS:
        parts[place] = b"".join(_slot(maze, number) for number in range(SLOTS))
    image = bytearray(CONTEXT + 4096 - RAM)
    for place, data in parts.items():
        image[place - RAM : place - RAM + len(data)] = data
    return bytes(image)
