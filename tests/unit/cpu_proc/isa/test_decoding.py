"""The generated decoder and the disassembler against binutils, and against each other."""

from __future__ import annotations

import random
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some

from cpu_proc.engine.disassembler import disassemble, match
from cpu_proc.engine.numbering import ILLEGAL, numbers
from cpu_proc.isa.table import TABLE
from tests.unit.cpu_proc.harness import engine

PREFIX = "riscv64-linux-gnu-"
NUMBERS = numbers()
# what the release's binutils know
MARCH = "rv64gc_zba_zbb_zbc_zbs_zbkb_zawrs_zfh_zicbom_zicboz_zihintpause_svinval"
PER_ROW = 40
# their rounding mode means nothing; binutils knows them with zero alone
EXACT = ("fcvt.d.s", "fcvt.d.w", "fcvt.d.wu", "fcvt.s.h", "fcvt.d.h")
# the first is an alias to binutils, the others are too new
UNKNOWN = ("pause", "czero.eqz", "czero.nez", *(row.name for row in TABLE.instructions if row.extension == "zfa"))
LENGTH = 7 << 26  # of a decoded word: the size of the instruction


def tool(name: str) -> str:
    """Return the path of a cross tool."""
    found = shutil.which(PREFIX + name)
    if found is None:
        pytest.fail(f"{PREFIX}{name} is missing: apt-get install binutils-riscv64-linux-gnu (.ci/run does)")
    return found


def objdump(words: list[int], folder: Path, *options: str) -> list[str]:
    """Return binutils' text for each word; each lies 8 bytes after the one before, c.nop in between."""
    path, source, built = folder / "words.bin", folder / "words.s", folder / "words.o"
    sized = [(word, 4 if word & 3 == 3 else 2) for word in words]
    path.write_bytes(b"".join(word.to_bytes(size, "little") + b"\1\0" * (4 - size // 2) for word, size in sized))
    source.write_text(f'.text\n.incbin "{path}"\n')
    subprocess.run([tool("as"), f"-march={MARCH}", "-o", built, source], check=True)
    subprocess.run([tool("strip"), "--strip-all", built], check=True)  # or the marks of data keep it from disassembling
    command = [tool("objdump"), "-D", "-j", ".text", *options, str(built)]
    texts = {}
    for line in subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines():
        found = re.match(r"\s*([0-9a-f]+):\t[0-9a-f ]+\t(.*)", line)
        if found:
            texts[int(found[1], 16)] = found[2]
    return [texts[8 * index] for index in range(len(words))]


def plain(text: str) -> str:
    """Bring both spellings into one: no comments, no blanks, decimal numbers, no dynamic rounding."""
    text = re.sub(r"\s*(#|<).*", "", text).replace("\t", " ", 1)
    name, _, operands = text.partition(" ")
    operands = re.sub(r"\s", "", operands).removesuffix(",dyn")
    operands = re.sub(r"0x[0-9a-f]+", lambda found: str(int(found[0], 16)), operands)
    return f"{name} {operands}".strip()


def samples(seed: int, count: int = PER_ROW) -> list[int]:
    """Return words of every row with random operands."""
    chosen = random.Random(seed)
    words = []
    for row in TABLE.instructions:
        free = ~row.mask & 0xFFFF_FFFF
        words += [row.match, row.match | free, *(row.match | chosen.getrandbits(32) & free for _ in range(count))]
    for short in TABLE.compressed:
        free = ~short.mask & 0xFFFF
        words += [short.match, short.match | free, *(short.match | chosen.getrandbits(16) & free for _ in range(count))]
    return words


def test_text_is_that_of_binutils(tmp_path: Path) -> None:
    words = samples(1)
    different = []
    for index, (word, theirs) in enumerate(zip(words, objdump(words, tmp_path, "-M", "no-aliases"), strict=True)):
        ours = disassemble(word, 8 * index)[1]
        expected, got = plain(theirs), plain(ours)
        name = got.split(" ")[0]
        if name == ".insn" or name in UNKNOWN:
            continue  # whether a word is legal is the business of the tests below
        if name.startswith("csr"):  # it names registers that this machine lacks, and lacks some that it has
            expected, got = (re.sub(r",[^,]*,", ",csr,", text) for text in (expected, got))
        if name.startswith("fence") and (word >> 28 or word & 0xF8F80 or name == "fence.i"):
            continue  # reserved fields: ignored here as the specification asks, not known there
        if name in EXACT and word >> 12 & 7:
            continue
        if re.search(r", [56]$", ours):
            continue  # a reserved rounding mode, which traps when executed
        if name in ("c.slli", "c.srli", "c.srai") and got.endswith(",0"):
            continue  # a hint, which binutils gives the names of RV128
        if expected != got:
            different.append(f"{word:#010x}: {expected!r} there, {got!r} here")
    assert not different, "\n".join(different[:40])


def add_for_mv(decoded: int) -> int:
    """Return ``addi rd, rs, 0``, binutils' ``mv``, for the ``add rd, x0, rs`` that c.mv stands for."""
    if decoded & 0x3FF == NUMBERS["add"] and decoded >> 16 & 31 == 0:
        return NUMBERS["addi"] | decoded & 0xFC00 | (decoded >> 21 & 31) << 16
    return decoded


def uncompressed(text: str, address: int) -> str | None:
    """Return a line for the assembler out of binutils' text for a compressed word, without its own name."""
    name, _, operands = re.sub(r"\s*(#|<).*", "", text).partition("\t")
    if name.startswith("c."):
        return None  # hints have no other name
    if name in ("j", "beqz", "bnez"):
        *registers, target = operands.split(",")
        distance = int(target, 16) - address
        distance -= 1 << 64 if distance > 1 << 62 else 0
        operands = ",".join([*registers, f".{distance:+d}"])
    return f"{name} {operands}"


def test_every_compressed_word_expands_as_binutils_says(tmp_path: Path) -> None:
    """All 16-bit words: binutils' text of the expansion, assembled without compression, decodes to the same word."""
    words = [word for word in range(1 << 16) if word & 3 != 3 and match(word) is not None]
    texts = objdump(words, tmp_path)
    lines = [(word, uncompressed(text, 8 * i)) for i, (word, text) in enumerate(zip(words, texts, strict=True))]
    kept = [(word, line) for word, line in lines if line is not None]
    assert len(kept) > 40_000
    source, built, image = tmp_path / "all.s", tmp_path / "all.o", tmp_path / "all.bin"
    source.write_text(".option norvc\n.option norelax\n" + "\n".join(line for _word, line in kept) + "\n")
    subprocess.run([tool("as"), f"-march={MARCH}", "-o", built, source], check=True)
    subprocess.run([tool("objcopy"), "-O", "binary", "-j", ".text", built, image], check=True)
    data = image.read_bytes()
    assert len(data) == 4 * len(kept)
    decode = engine().decode
    different = []
    for index, (word, line) in enumerate(kept):
        short, long = decode(word), decode(int.from_bytes(data[4 * index : 4 * index + 4], "little"))
        assert (short >> 26 & 7, long >> 26 & 7) == (2, 4)
        if add_for_mv(short & ~LENGTH) != add_for_mv(long & ~LENGTH):
            different.append(f"{word:#06x} {line}: {short & ~LENGTH:#x} here, {long & ~LENGTH:#x} there")
    assert not different, "\n".join(different[:40])


def legal_compressed(word: int) -> bool:
    """Tell whether a 16-bit word is not reserved, by the tables of RISC-V unprivileged §26.8."""
    quadrant, funct3 = word & 3, word >> 13
    rd, middle = word >> 7 & 31, word >> 2 & 31
    if quadrant == 0:
        return funct3 != 4 and (funct3 != 0 or word >> 5 & 0xFF != 0)
    if quadrant == 1:
        if funct3 == 1:
            return rd != 0  # c.addiw
        if funct3 == 3:
            return bool(word >> 12 & 1 or middle)  # c.lui, c.addi16sp
        return funct3 != 4 or not (word >> 10 & 7 == 7 and word >> 6 & 1)
    if funct3 in (2, 3):
        return rd != 0  # c.lwsp, c.ldsp
    return not (funct3 == 4 and middle == 0 and rd == 0 and not word >> 12 & 1)  # c.jr x0


def test_reserved_compressed_words_are_illegal() -> None:
    decode = engine().decode
    for word in range(1 << 16):
        if word & 3 != 3:
            assert (decode(word) != ILLEGAL) == legal_compressed(word) == (match(word) is not None), hex(word)


def check_agreement(word: int) -> None:
    """Hold the decoder against the disassembler on one word."""
    decoded = engine().decode(word)
    found = match(word)
    size, text = disassemble(word, 0x8000_0000)
    if found is None:
        assert decoded == ILLEGAL
        assert text.startswith(".insn")
    else:
        assert decoded & 0x3FF == NUMBERS[found[0].name]
        assert decoded >> 26 & 7 == size
        assert text.split(" ")[0].startswith(found[1].name)
        assert decoded >> 10 & 63 <= 32


@settings(max_examples=1000, deadline=None)
@given(some.integers(0, 0xFFFF_FFFF))
def test_any_word_is_decoded_alike(word: int) -> None:
    check_agreement(word)


def test_rows_overlap_only_where_the_more_special_comes_first() -> None:
    for rows in (TABLE.instructions, TABLE.compressed):
        for index, later in enumerate(rows):
            for earlier in rows[:index]:
                if (earlier.match ^ later.match) & earlier.mask & later.mask == 0:
                    assert earlier.mask & later.mask == later.mask, (earlier.name, later.name)


def test_every_row_tells_its_extension() -> None:
    named = {extension for row in TABLE.instructions for extension in row.extension.split()}
    assert {"i", "m", "a", "f", "d", "zba", "zbb", "zbc", "zbs", "zbkb", "zicond", "zicsr", "zifencei"} <= named
    by_name = {row.name: row.extension for row in TABLE.instructions}
    assert (by_name["fadd.s"], by_name["fld"], by_name["fcvt.s.d"], by_name["rol"]) == ("f", "d", "d", "zbb zbkb")


def test_words_near_every_row_are_decoded_alike() -> None:
    """One bit off a legal word is where tables go wrong."""
    for word in samples(2, 4):
        check_agreement(word)
        for bit in range(32 if word & 3 == 3 else 16):
            check_agreement(word ^ 1 << bit)


def test_what_is_legal_here_has_the_same_name_in_binutils(tmp_path: Path) -> None:
    chosen = random.Random(3)
    words = [chosen.getrandbits(32) | 3 for _word in range(20_000)]
    words += [word ^ 1 << chosen.randrange(2, 32) for word in samples(4, 30) if word & 3 == 3]
    words = [word for word in words if word & 0x1F != 0x1F and match(word) is not None]
    different = []
    for word, theirs in zip(words, objdump(words, tmp_path, "-M", "no-aliases"), strict=True):
        ours = disassemble(word)[1]
        reserved = ours.startswith(("fence", *EXACT, *UNKNOWN)) or re.search(r", [56]$", ours)
        if not reserved and plain(theirs).split(" ")[0] != ours.split(" ")[0]:
            different.append(f"{word:#010x}: {theirs!r} there, {ours!r} here")
    assert not different, "\n".join(different[:40])


@pytest.mark.parametrize(
    ("word", "text"),
    [
        (0x1605_A52F, "lr.w.aqrl a0, (a1)"), (0x0210_000F, "fence r, w"), (0x10C5_9553, "fmul.s fa0, fa1, fa2, rtz"),
        (0x7505, "c.lui a0, 0xfffe1"), (0x6105, "c.addi16sp sp, 32"), (0x0000, ".insn 2, 0x0"),
        (0x15C5_9573, "csrrw a0, stopei, a1"), (0x0000_100F, "fence.i"),
        (0xF018_0553, "fli.s fa0, 1.0"), (0xF210_8553, "fli.d fa0, min"), (0xC285_9553, "fcvtmod.w.d a0, fa1, rtz"),
        (0x4445_F553, "fround.h fa0, fa1"), (0xA4C5_C553, "fleq.h a0, fa1, fa2"), (0x8082, "c.jr ra"),
    ],
)  # fmt: skip
def test_text(word: int, text: str) -> None:
    assert disassemble(word)[1] == text
