"""Macros for instructions that Debian's assembler does not know: Zicond and Zfa."""

from __future__ import annotations

from cpu_proc.engine.float_constants import NAMES

_ROUNDING = ("rne", "rtz", "rdn", "rup", "rmm", "", "", "dyn")
_FORMATS = {"s": 0, "d": 1}


def macro(name: str, parameters: str, *lines: str) -> str:
    """Return the definition of one macro."""
    return "\n".join([f".macro {name} {parameters}", *lines, ".endm", ""])


def _r_type(name: str, funct3: int, funct7: int, opcode: int = 0x53) -> str:
    return macro(name, "rd, rs1, rs2", f".insn r {opcode:#x}, {funct3}, {funct7:#x}, \\rd, \\rs1, \\rs2")


def _rounded(name: str, funct7: int, number: int) -> str:
    return macro(name, "rd, rs1, rm=dyn", f".insn r 0x53, rounding_\\rm, {funct7:#x}, \\rd, \\rs1, x{number}")


def _spelled(constant: str) -> list[str]:
    """Return how the architecture tests spell a constant of fli."""
    if constant in ("min", "inf", "nan"):
        return [constant]
    mantissa, exponent = float(constant).hex().split("p")
    mantissa = mantissa.rstrip("0").rstrip(".")
    return [f"{mantissa}p{exponent}", *([f"{mantissa}p0"] if exponent == "+0" else [])]


def _fli(name: str, funct7: int) -> str:
    lines = [".set spelled, 0"]
    for number, constant in enumerate(NAMES):
        for text in _spelled(constant):
            word = f".insn r 0x53, 0, {funct7:#x}, \\rd, x{number}, x1"
            lines += [f".ifc \\value,{text}", word, ".set spelled, 1", ".endif"]
    lines += [".ifeq spelled", '.error "no constant of fli"', ".endif"]
    return macro(name, "rd, value", *lines)


def zicond() -> str:
    """Return the macros of Zicond."""
    return _r_type("czero.eqz", 5, 7, 0x33) + _r_type("czero.nez", 7, 7, 0x33)


def zfa() -> str:
    """Return the macros of Zfa for single and double precision (RISC-V unprivileged §24)."""
    text = "".join(f".equ rounding_{name}, {number}\n" for number, name in enumerate(_ROUNDING) if name)
    for letter, fmt in _FORMATS.items():
        text += _fli(f"fli.{letter}", 0x78 | fmt)
        for name, funct3, funct7 in (("fminm", 2, 0x14), ("fmaxm", 3, 0x14), ("fleq", 4, 0x50), ("fltq", 5, 0x50)):
            text += _r_type(f"{name}.{letter}", funct3, funct7 | fmt)
        for name, number in (("fround", 4), ("froundnx", 5)):
            text += _rounded(f"{name}.{letter}", 0x20 | fmt, number)
    return text + _rounded("fcvtmod.w.d", 0x61, 8)
