"""RV64C: the compressed instructions, each by its expansion (RISC-V unprivileged §26.8)."""

from __future__ import annotations

from cpu_proc.isa.table import compressed

_RD_ = "[4:2]+8"  # rd' and rs2' of the CIW, CL, CS formats
_RS1_ = "[9:7]+8"  # rs1' and rd' of CL, CS, CA, CB
_RD = "[11:7]"
_RS2 = "[6:2]"
_IMM6 = "[12]<<5|[6:2]"
_W = "[12:10]<<3|[6]<<2|[5]<<6"
_D = "[12:10]<<3|[6:5]<<6"
_JUMP = "[12]<<11|[11]<<4|[10:9]<<8|[8]<<10|[7]<<6|[6]<<7|[5:3]<<1|[2]<<5"
_BRANCH = "[12]<<8|[11:10]<<3|[6:5]<<6|[4:3]<<1|[2]<<5"

# quadrant 0
compressed(
    "c.addi4spn",
    "000 ........ ... 00",
    "addi",
    {"rd": _RD_, "rs1": "2", "imm": "[12:11]<<4|[10:7]<<6|[6]<<2|[5]<<3"},
    when="imm != 0",
)
compressed("c.fld", "001 ... ... .. ... 00", "fld", {"rd": _RD_, "rs1": _RS1_, "imm": _D})
compressed("c.lw", "010 ... ... .. ... 00", "lw", {"rd": _RD_, "rs1": _RS1_, "imm": _W})
compressed("c.ld", "011 ... ... .. ... 00", "ld", {"rd": _RD_, "rs1": _RS1_, "imm": _D})
compressed("c.fsd", "101 ... ... .. ... 00", "fsd", {"rs1": _RS1_, "rs2": _RD_, "imm": _D})
compressed("c.sw", "110 ... ... .. ... 00", "sw", {"rs1": _RS1_, "rs2": _RD_, "imm": _W})
compressed("c.sd", "111 ... ... .. ... 00", "sd", {"rs1": _RS1_, "rs2": _RD_, "imm": _D})

# quadrant 1
compressed("c.addi", "000 . ..... ..... 01", "addi", {"rd": _RD, "rs1": _RD, "imm": _IMM6}, signed=6)
compressed("c.addiw", "001 . ..... ..... 01", "addiw", {"rd": _RD, "rs1": _RD, "imm": _IMM6}, signed=6, when="rd != 0")
compressed("c.li", "010 . ..... ..... 01", "addi", {"rd": _RD, "rs1": "0", "imm": _IMM6}, signed=6)
compressed(
    "c.addi16sp",
    "011 . 00010 ..... 01",
    "addi",
    {"rd": "2", "rs1": "2", "imm": "[12]<<9|[6]<<4|[5]<<6|[4:3]<<7|[2]<<5"},
    signed=10,
    when="imm != 0",
)
compressed("c.lui", "011 . ..... ..... 01", "lui", {"rd": _RD, "imm": "[12]<<17|[6:2]<<12"}, signed=18, when="imm != 0")
compressed("c.srli", "100 . 00 ... ..... 01", "srli", {"rd": _RS1_, "rs1": _RS1_, "imm": _IMM6})
compressed("c.srai", "100 . 01 ... ..... 01", "srai", {"rd": _RS1_, "rs1": _RS1_, "imm": _IMM6})
compressed("c.andi", "100 . 10 ... ..... 01", "andi", {"rd": _RS1_, "rs1": _RS1_, "imm": _IMM6}, signed=6)
for _name, _bits in (
    ("sub", "0 11 ... 00"),
    ("xor", "0 11 ... 01"),
    ("or", "0 11 ... 10"),
    ("and", "0 11 ... 11"),
    ("subw", "1 11 ... 00"),
    ("addw", "1 11 ... 01"),
):
    compressed(f"c.{_name}", f"100 {_bits} ... 01", _name, {"rd": _RS1_, "rs1": _RS1_, "rs2": _RD_})
compressed("c.j", "101 ........... 01", "jal", {"rd": "0", "imm": _JUMP}, signed=12)
compressed("c.beqz", "110 ... ... ..... 01", "beq", {"rs1": _RS1_, "rs2": "0", "imm": _BRANCH}, signed=9)
compressed("c.bnez", "111 ... ... ..... 01", "bne", {"rs1": _RS1_, "rs2": "0", "imm": _BRANCH}, signed=9)

# quadrant 2
compressed("c.slli", "000 . ..... ..... 10", "slli", {"rd": _RD, "rs1": _RD, "imm": _IMM6})
compressed("c.fldsp", "001 . ..... ..... 10", "fld", {"rd": _RD, "rs1": "2", "imm": "[12]<<5|[6:5]<<3|[4:2]<<6"})
compressed(
    "c.lwsp", "010 . ..... ..... 10", "lw", {"rd": _RD, "rs1": "2", "imm": "[12]<<5|[6:4]<<2|[3:2]<<6"}, when="rd != 0"
)
compressed(
    "c.ldsp", "011 . ..... ..... 10", "ld", {"rd": _RD, "rs1": "2", "imm": "[12]<<5|[6:5]<<3|[4:2]<<6"}, when="rd != 0"
)
compressed("c.jr", "100 0 ..... 00000 10", "jalr", {"rd": "0", "rs1": _RD, "imm": "0"}, when="rs1 != 0")
compressed("c.mv", "100 0 ..... ..... 10", "add", {"rd": _RD, "rs1": "0", "rs2": _RS2}, when="rs2 != 0")
compressed("c.ebreak", "100 1 00000 00000 10", "ebreak", {})
compressed("c.jalr", "100 1 ..... 00000 10", "jalr", {"rd": "1", "rs1": _RD, "imm": "0"}, when="rs1 != 0")
compressed("c.add", "100 1 ..... ..... 10", "add", {"rd": _RD, "rs1": _RD, "rs2": _RS2}, when="rs2 != 0")
compressed("c.fsdsp", "101 ...... ..... 10", "fsd", {"rs1": "2", "rs2": _RS2, "imm": "[12:10]<<3|[9:7]<<6"})
compressed("c.swsp", "110 ...... ..... 10", "sw", {"rs1": "2", "rs2": _RS2, "imm": "[12:9]<<2|[8:7]<<6"})
compressed("c.sdsp", "111 ...... ..... 10", "sd", {"rs1": "2", "rs2": _RS2, "imm": "[12:10]<<3|[9:7]<<6"})
