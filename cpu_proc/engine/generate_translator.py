"""The translator, as source text: guest blocks become host code, by the templates of ``engine.x86``.

A block begins anywhere and ends behind a jump, at the end of its page, or before an instruction without a template. It
is entered with the instructions left in the slice and leaves when they do not suffice; then, and wherever an access
misses the TLB, it returns to the dispatcher with the state exact, and the interpreter executes one instruction. Code
finds out its own address by a register that holds the page's, so that it serves a physical page wherever it is mapped.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.numbering import numbers
from cpu_proc.engine.source_text import chain
from cpu_proc.engine.x86.templates import BRANCHES, LOADS, STORES, VALUES
from cpu_proc.isa.table import TABLE

_WIDTH = {row.name: row.width // 8 for row in TABLE.instructions}


def _opcode(parts: tuple[int, ...], modrm: int) -> str:
    """Return the statement that puts an instruction with the operand [rax + rdx]."""
    data = [*parts, modrm, 0x10]
    return (
        f"return put{len(data)}(p, {', '.join(map(hex, data))})"
        if len(data) <= 4
        else (f"return put{len(data) - 3}(put3(p, {', '.join(map(hex, data[:3]))}), {', '.join(map(hex, data[3:]))})")
    )


def translator() -> str:
    """Return the functions of the translator; ``translate(S, decoded, offset)`` makes a block."""
    number = numbers()

    def rows(table: dict[str, str]) -> str:
        return chain([(f"op == {number[name]}", [body]) for name, body in table.items()], 1)

    values = rows({name: f"return {text}" for name, text in VALUES.items()})
    conditions = rows({name: f"return {code}" for name, code in BRANCHES.items()})
    loads = rows({name: _opcode(parts, 0x04) for name, parts in LOADS.items()})
    stores = rows({name: _opcode(parts, 0x0C) for name, parts in STORES.items()})
    load_sizes = rows({name: f"return {_WIDTH[name]}" for name in LOADS})
    store_sizes = rows({name: f"return {_WIDTH[name]}" for name in STORES})
    return f"""
@jit
def value_template(p, w, op, offset):
{values}
    return 0


@jit
def condition_of(op):
{conditions}
    return -1


@jit
def put_load(p, op):
{loads}
    return p


@jit
def put_store(p, op):
{stores}
    return p


@jit
def load_size(op):
{load_sizes}
    return 0


@jit
def store_size(op):
{store_sizes}
    return 0


@jit
def word_ahead(S, decoded, offset):
    w = load_i64(decoded + (offset << 2))
    if w != 0:
        return w
    host = S[RAM_HOST] + (decoded - S[DEC_HOST] >> 2) + offset
    i = load_u16(host)
    if i & 3 == 3:
        if offset == 0xFFE:
            return 0
        i |= load_u16(host + 2) << 16
    S[DECODES] += 1
    w = decode(i)
    compare_with_copy(S, decoded, offset, i)
    store_64(decoded + (offset << 2), w)
    return w


@jit
def translate(S, decoded, start):
    if S[EMIT] > S[CODE_LIMIT]:
        forget_code(S)
    S[BLOCKS] += 1
    codes = S[CODE_HOST] + decoded - S[DEC_HOST]
    entry = S[EMIT]
    store_64(codes + (start << 2), entry + S[CODE_SHIFT])
    p = put3(entry, 0x49, 0x81, 0xEE)  # sub r14, instructions
    fuel = p
    p = put2(p + 4, 0x0F, 0x88)  # js
    out_of_fuel = p
    p += 4
    offset = start
    n = 0
    slow = 0
    jumped = 0
    while jumped == 0 and n < {st.BLOCK_MOST}:
        w = 0
        if offset < 4096:
            w = word_ahead(S, decoded, offset)
        if w == 0:
            break
        op = w & 0x3FF
        length = w >> 26 & 7
        rd = w >> 10 & 63
        q = value_template(p, w, op, offset)
        if q != 0:
            p = store_register(q, rd)
        elif load_size(op) != 0:
            p = look_up_page(address_of(p, w), load_size(op), 0)
            slow = note_slow(S, slow, p, offset, n)
            p = store_register(put_load(host_of_page(p + 4, 0), op), rd)
        elif store_size(op) != 0:
            p = look_up_page(address_of(p, w), store_size(op), 1)
            slow = note_slow(S, slow, p, offset, n)
            p = put_store(load_register(host_of_page(p + 4, 1), 1, w >> 21 & 31), op)
        elif condition_of(op) >= 0:
            p = put2(compare_registers(p, w), 0x0F, 0x80 | condition_of(op))
            taken = p
            p = chain_to(S, p + 4, codes, offset + length)
            patch(taken, p)
            p = chain_to(S, p, codes, offset + (w >> 32))
            jumped = 1
        elif op == {number["jal"]}:
            if rd != 32:
                p = store_register(page_address(p, offset + length), rd)
            p = chain_to(S, p, codes, offset + (w >> 32))
            jumped = 1
        elif op == {number["jalr"]}:
            p = put4(address_of(p, w), 0x48, 0x83, 0xE0, 0xFE)  # and rax, -2
            if rd != 32:
                p = put3(p, 0x48, 0x89, 0xC2)
                p = store_register(page_address(p, offset + length), rd)
                p = put3(p, 0x48, 0x89, 0xD0)
            p = look_up_target(p)
            jumped = 1
        else:
            break
        n += 1
        offset += length
    if n == 0:  # nothing to translate: have the interpreter do it
        p = leave(store_slot(page_address(entry, start), {st.SLOTS["PC"]}), 0)
        S[EMIT] = p
        return entry + S[CODE_SHIFT]
    if jumped == 0:
        if n == {st.BLOCK_MOST} or offset == 4096:
            p = chain_to(S, p, codes, offset)
        else:
            p = leave(store_slot(page_address(p, offset), {st.SLOTS["PC"]}), 0)
    store_32(fuel, n)
    for k in range(slow):
        row = S[FIXUPS_HOST] + k * 24
        patch(load_i64(row), p)
        p = store_slot(page_address(p, load_i64(row + 8)), {st.SLOTS["PC"]})
        p = put32(put3(p, 0x49, 0x81, 0xC6), n - load_i64(row + 16))  # add r14, what was not executed
        p = leave(p, 0)
    patch(out_of_fuel, p)
    p = store_slot(page_address(p, start), {st.SLOTS["PC"]})
    p = leave(put32(put3(p, 0x49, 0x81, 0xC6), n), 2)
    S[EMIT] = p
    return entry + S[CODE_SHIFT]


@jit
def translated(S, X, n, loads, stores, fetches):
    # execute translated code until the interpreter is needed; what is left of the slice
    S[JUMPS] = S[JUMPS_HOST] + (tlb_mode(S, 0) // {st.TLB_ENTRIES}) * {st.JUMP_BYTES}
    S[INTERPRET] = 1
    site = 0
    while n > 0:
        pc = S[PC]
        k = fetches + ((pc >> 8) & {(st.TLB_ENTRIES - 1) * 16:#x})
        if load_i64(k) != pc & -4096:
            return n
        decoded = load_i64(k + 8)
        if decoded == S[UNDECODED_HOST]:
            return n
        S[PATCH_SITE] = site
        code = load_i64(S[CODE_HOST] + decoded - S[DEC_HOST] + ((pc & 0xFFF) << 2))
        if code == 0:
            code = translate(S, decoded, pc & 0xFFF)
        if S[PATCH_SITE] > 2:
            patch(S[PATCH_SITE] - S[CODE_SHIFT], code - S[CODE_SHIFT])
        entry = S[JUMPS] + ((pc & {st.JUMP_MASK:#x}) << 3)
        store_64(entry, pc)
        store_64(entry + 8, code)
        S[CODE_PAGE] = pc & -4096
        site = call_6(S[TRAMPOLINE], code, X, S[SELF_HOST], loads, stores, n)
        n = S[FUEL]
        if site == 0:
            return n
        if site == 2:
            S[INTERPRET] = n
            return n
    return 0
"""
