"""Zicsr, Zifencei and the privileged instructions (RISC-V unprivileged §6–7, privileged §3.3, §10.2)."""

from __future__ import annotations

from cpu_proc.isa.table import CSR, CSRI, NONE, SFENCE, Kind, instruction

# ruff: noqa: F821  # the system functions are in scope of the generated code
# mypy: disable-error-code="no-untyped-def, no-untyped-call, name-defined"

_OP = "1110011"


@instruction("fence.i", "....... ..... ..... 001 ..... 0001111", NONE, Kind.SYSTEM)
def fence_i(S, X, F, w):
    return sys_fence_i(S, w)


@instruction("ecall", f"0000000 00000 00000 000 00000 {_OP}", NONE, Kind.SYSTEM)
def ecall(S, X, F, w):
    return sys_ecall(S, w)


@instruction("ebreak", f"0000000 00001 00000 000 00000 {_OP}", NONE, Kind.SYSTEM)
def ebreak(S, X, F, w):
    return sys_ebreak(S)


@instruction("sret", f"0001000 00010 00000 000 00000 {_OP}", NONE, Kind.SYSTEM)
def sret(S, X, F, w):
    return sys_sret(S)


@instruction("mret", f"0011000 00010 00000 000 00000 {_OP}", NONE, Kind.SYSTEM)
def mret(S, X, F, w):
    return sys_mret(S)


@instruction("wfi", f"0001000 00101 00000 000 00000 {_OP}", NONE, Kind.SYSTEM)
def wfi(S, X, F, w):
    return sys_wfi(S, w)


@instruction("sfence.vma", f"0001001 ..... ..... 000 00000 {_OP}", SFENCE, Kind.SYSTEM)
def sfence_vma(S, X, F, w):
    return sys_sfence_vma(S, X, w)


@instruction("sinval.vma", f"0001011 ..... ..... 000 00000 {_OP}", SFENCE, Kind.SYSTEM, extension="svinval")
def sinval_vma(S, X, F, w):
    return sys_sfence_vma(S, X, w)  # the fences around it have nothing left to order


@instruction("sfence.w.inval", f"0001100 00000 00000 000 00000 {_OP}", NONE, Kind.SYSTEM, extension="svinval")
def sfence_w_inval(S, X, F, w):
    return sys_sfence_inval(S)


@instruction("sfence.inval.ir", f"0001100 00001 00000 000 00000 {_OP}", NONE, Kind.SYSTEM, extension="svinval")
def sfence_inval_ir(S, X, F, w):
    return sys_sfence_inval(S)


# rs1 = x0 (or a zero immediate) in csrrs and csrrc means "do not write" (§6.1); rd = x0 in csrrw means "do not read".


@instruction("csrrw", f"....... ..... ..... 001 ..... {_OP}", CSR, Kind.SYSTEM)
def csrrw(S, X, F, w):
    return sys_csr(S, X, w, 0, load_i64(X + (w >> 13 & 0xF8)))


@instruction("csrrs", f"....... ..... ..... 010 ..... {_OP}", CSR, Kind.SYSTEM)
def csrrs(S, X, F, w):
    return sys_csr(S, X, w, 1, load_i64(X + (w >> 13 & 0xF8)))


@instruction("csrrc", f"....... ..... ..... 011 ..... {_OP}", CSR, Kind.SYSTEM)
def csrrc(S, X, F, w):
    return sys_csr(S, X, w, 2, load_i64(X + (w >> 13 & 0xF8)))


@instruction("csrrwi", f"....... ..... ..... 101 ..... {_OP}", CSRI, Kind.SYSTEM)
def csrrwi(S, X, F, w):
    return sys_csr(S, X, w, 0, w >> 16 & 31)


@instruction("csrrsi", f"....... ..... ..... 110 ..... {_OP}", CSRI, Kind.SYSTEM)
def csrrsi(S, X, F, w):
    return sys_csr(S, X, w, 1, w >> 16 & 31)


@instruction("csrrci", f"....... ..... ..... 111 ..... {_OP}", CSRI, Kind.SYSTEM)
def csrrci(S, X, F, w):
    return sys_csr(S, X, w, 2, w >> 16 & 31)
