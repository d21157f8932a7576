"""A block of guest instructions becomes host code.

A block begins anywhere and goes on behind branches that are not taken, up to a jump, the end of its page, a block that
is there already, or an instruction without a template. Each stretch up to a branch takes its instructions off the
slice as it begins; the whole block is entered only if the slice suffices, so that a budget is kept to the instruction.
Code finds the address of its page in the state, so that it serves a physical page wherever that is mapped.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import load_i64, load_u8, store_8, store_64
from cpu_proc.engine.x86 import floating, integer, memory
from cpu_proc.engine.x86 import templates as t
from cpu_proc.engine.x86.assembler import (
    DISCARDED,
    FUEL,
    HOST_OF,
    IF_EQUAL,
    IF_LESS,
    RAX,
    RCX,
    SUBTRACT,
    add_constant,
    host_or,
    jump,
    jump_if,
    load_constant,
    load_x,
    op_immediate,
    page_address,
    patch,
    settle,
    store_slot,
    test_slot,
)
from cpu_proc.engine.x86.blocks import (
    BEYOND,
    ON_FLOAT,
    ON_FUEL,
    ON_MISS,
    TO_CHAIN,
    TO_INTERPRET,
    TO_LOOK_UP,
    UNTRANSLATED,
    chain_to,
    escape,
    forget_code,
    leave_by,
    look_up_target,
    put_exit,
)
from cpu_proc.engine.x86.forms import FORMS, form_of, writes_x
from cpu_proc.engine.x86.fusion import fuses, put_pair
from cpu_proc.engine.x86.integer import rd, rs1, rs2
from cpu_proc.engine.x86.sharing import put_look, stop_sharing

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"

ROW = 40  # bytes of a row of S[FIXUPS_HOST]: displacement to patch, kind, offset, instructions executed, where to go on


@jit
def put_value(p, w, form, a, b, c, offset):
    """Put an instruction that computes an integer register."""
    if form == t.ADD_IMMEDIATE:
        return integer.add_immediate(p, w)
    if form == t.BINARY:
        return integer.binary(p, w, a, b)
    if form == t.ADD_WORD_IMMEDIATE:
        return integer.add_word_immediate(p, w)
    if form == t.SHIFT_IMMEDIATE:
        return integer.shift_immediate(p, w, a, b)
    if form == t.CONSTANT:
        host = host_or(rd(w), RAX)
        return settle(load_constant(p, host, w >> 32), rd(w), host)
    if form == t.PC_RELATIVE:
        host = host_or(rd(w), RAX)
        return settle(page_address(p, host, offset + (w >> 32)), rd(w), host)
    if form == t.IMMEDIATE:
        return integer.immediate(p, w, a)
    if form == t.SHIFT:
        return integer.shift(p, w, a, b)
    if form == t.COMPARE:
        return integer.compare(p, w, a)
    if form == t.COMPARE_IMMEDIATE:
        return integer.compare_immediate(p, w, a)
    if form == t.MULTIPLY:
        return integer.multiply(p, w, a)
    if form == t.MULTIPLY_HIGH:
        return integer.multiply_high(p, w, a, b)
    if form == t.DIVIDE:
        return integer.divide(p, w, a, b, c)
    return put_bits(p, w, form, a, b, c)


@jit
def put_bits(p, w, form, a, b, c):
    """Put an instruction of bit manipulation (Zb*, Zicond)."""
    if form == t.SHIFT_AND_ADD:
        return integer.shift_and_add(p, w, a, b)
    if form == t.SHIFT_WORD_LEFT:
        return integer.shift_word_left(p, w)
    if form == t.UNARY:
        return integer.unary(p, w, a, b, c)
    if form == t.ROTATE:
        return integer.rotate(p, w, a, b)
    if form == t.ROTATE_IMMEDIATE:
        return integer.rotate_immediate(p, w, a)
    if form == t.AND_WITH_NOT:
        return integer.and_with_not(p, w)
    if form == t.LOGIC_WITH_NOT:
        return integer.logic_with_not(p, w, a)
    if form == t.CHOOSE:
        return integer.choose(p, w, a)
    if form == t.CHOOSE_ZERO:
        return integer.choose_zero(p, w, a)
    if form == t.REVERSE_BYTES:
        return integer.reverse_bytes(p, w)
    if form == t.SPREAD_BYTES:
        return integer.spread_bytes(p, w)
    if form == t.ONE_BIT:
        return integer.one_bit(p, w, a)
    if form == t.ONE_BIT_IMMEDIATE:
        return integer.one_bit_immediate(p, w, a)
    if form == t.EXTRACT_BIT:
        return integer.extract_bit(p, w)
    if form == t.EXTRACT_BIT_IMMEDIATE:
        return integer.extract_bit_immediate(p, w)
    return integer.pack_words(p, w)


@jit
def put_access(S, p, w, form, a, b, size):
    """Put what follows the look into the TLB."""
    if form == t.LOAD:
        return memory.load(p, w, a, b)
    if form == t.STORE:
        return memory.store(p, w, size)
    if form == t.FLOAT_LOAD:
        return floating.load(S, p, w, b)
    if form == t.FLOAT_STORE:
        return floating.store(p, w, b)
    if form == t.EXCHANGE:
        return memory.exchange(p, w, a, size >> 3)
    if form == t.MODIFY:
        return memory.modify(p, w, a, size >> 3)
    if form == t.LOAD_RESERVED:
        return memory.load_reserved(p, w, size)
    if form == t.STORE_CONDITIONAL:
        return memory.store_conditional(p, w, size)
    return memory.zero_block(p, w)


@jit
def put_float(S, p, w, form, a, double):
    """Put a floating-point instruction."""
    if form == t.ARITHMETIC:
        return floating.arithmetic(S, p, w, a, double)
    if form == t.MULTIPLY_ADD:
        return floating.multiply_add(S, p, w, a, double)
    if form == t.WITH_SIGN:
        return floating.with_sign(S, p, w, a, double)
    if form == t.LESS:
        return floating.less(S, p, w, a, double)
    if form == t.EQUAL:
        return floating.equal(S, p, w, double)
    if form == t.TO_INTEGER:
        return floating.to_integer(S, p, w, a, double)
    if form == t.FROM_INTEGER:
        return floating.from_integer(S, p, w, a, double)
    if form == t.MOVE_TO_INTEGER:
        return floating.move_to_integer(p, w, double)
    if form == t.MOVE_FROM_INTEGER:
        return floating.move_from_integer(S, p, w, double)
    if form == t.EXTREME:
        return floating.extreme(S, p, w, a, double)
    if form == t.EXCHANGE_FLAGS:
        return floating.exchange_flags(p, w, a)
    if form == t.CHANGE_PRECISION:
        return floating.change_precision(S, p, w, double)
    return floating.square_root(S, p, w, double)


@jit
def leaves_in_rax(form):
    """Tell whether an instruction whose rd has no host register ends with storing it from rax."""
    return (form < t.LAST_VALUE and form not in (t.MULTIPLY_HIGH, t.DIVIDE)) or form == t.LOAD


@jit
def hold(w, held):
    """Say in a decoded word that rax holds its first operand; the sum does not care which that is."""
    if held == 0:
        return w
    form = FORMS[w & 0x3FF, 0]
    if form == t.BINARY and rs2(w) == held and FORMS[w & 0x3FF, 1] != SUBTRACT:
        w = w & ~(0x3FF << 16) | rs1(w) << 21 | held << 16
    if rs1(w) != held or form in (t.MULTIPLY_HIGH, t.LOGIC_WITH_NOT):
        return w
    return w | integer.HELD


@jit
def note(S, rows, site, kind, offset, executed, back_to):
    """Remember a jump out of the block; return how many there are."""
    row = S[st.FIXUPS_HOST] + rows * ROW
    store_64(row, site)
    store_64(row + 8, kind)
    store_64(row + 16, offset)
    store_64(row + 24, executed)
    store_64(row + 32, back_to)
    return rows + 1


@jit
def begin_stretch(p):
    """Take instructions off the slice; how many, in the byte before what follows, is put in when it ends."""
    return op_immediate(p, 5, FUEL, 1, 1)


@jit
def end_stretch(S, site, first, rows, executed):
    """Say how many instructions the stretch has, and of each jump out of it, how many are to be given back."""
    store_8(site - 1, executed)
    for k in range(first, rows):
        row = S[st.FIXUPS_HOST] + k * ROW
        store_64(row + 24, executed - load_i64(row + 24))


@jit
def put_ways_out(S, rows):
    """Put what the jumps out of the block lead to, away from what is executed often."""
    p = S[st.EMIT_WAYS]
    for k in range(rows):
        row = S[st.FIXUPS_HOST] + k * ROW
        kind, offset = load_i64(row + 8), load_i64(row + 16)
        patch(load_i64(row), p)
        if kind == BEYOND:
            p = look_up_target(S, page_address(p, RAX, offset))
            patch(S[st.LEFT_AT], p)
            kind = TO_LOOK_UP
        if kind == TO_LOOK_UP:
            p = put_exit(S, store_slot(p, RAX, st.PC), kind, 0, 0, p)
        else:
            p = put_exit(S, p, kind, offset, load_i64(row + 24), load_i64(row + 32))
    S[st.EMIT_WAYS] = p


@jit
def translate(S, decoded, start):
    """Translate the block at an offset of a page whose words are decoded; return where it is to be entered.

    That is UNTRANSLATED if its first instruction is the interpreter's.
    """
    codes = S[st.CODE_HOST] + decoded - S[st.DEC_HOST]
    if form_of(load_i64(decoded + (start << 2))) == t.NOTHING:
        store_64(codes + (start << 2), UNTRANSLATED)
        return UNTRANSLATED
    if S[st.EMIT] > S[st.CODE_LIMIT] or S[st.EMIT_WAYS] > S[st.WAYS_LIMIT]:
        forget_code(S)
    S[st.BLOCKS] += 1
    S[st.BOXED] = S[st.SHARED] = S[st.ESCAPES] = S[st.LEFT_AT] = 0
    sharing = load_u8(S[st.STRADDLES_HOST] + (decoded - S[st.DEC_HOST] >> 14)) < st.STRADDLES_MOST
    entry = S[st.EMIT]
    store_64(codes + (start << 2), entry + S[st.CODE_SHIFT])
    p = jump_if(op_immediate(entry, 7, FUEL, 1, 1), IF_LESS)  # cmp r14, instructions; jl
    total = p - 3
    rows = note(S, 0, p, ON_FUEL, start, 0, p)
    first = rows
    p = begin_stretch(p + 4)
    site = p
    offset = start
    n = executed = floats = ended = held = 0
    is_open = 1
    while ended == 0 and n < st.BLOCK_MOST:
        w = load_i64(decoded + (offset << 2)) if offset < 4096 else 0
        form = form_of(w)
        if form == t.NOTHING:
            break
        a, b, c = FORMS[w & 0x3FF, 1], FORMS[w & 0x3FF, 2], FORMS[w & 0x3FF, 3]
        here = p
        following = offset + (w >> 26 & 7)
        if form < t.LAST_VALUE:
            behind = load_i64(decoded + (following << 2)) if following < 4096 and n + 1 < st.BLOCK_MOST else 0
            if fuses(w, behind):
                p = put_pair(p, hold(w, held), behind, offset)
                following += behind >> 26 & 7
                n += 1
                executed += 1
            elif rd(w) != DISCARDED:
                p = put_value(p, hold(w, held), form, a, b, c, offset)
        elif form < t.LAST_FLOAT:
            if form > t.LAST_MEMORY or form in (t.FLOAT_LOAD, t.FLOAT_STORE):
                if floats == 0:
                    p = floating.ready(p)
                    rows = note(S, rows, p, ON_FLOAT, offset, executed, here)
                    p += 4
                floats = 1
            if form == t.FENCE:
                p = memory.fence(p, w)
            elif form < t.LAST_MEMORY:
                if form == t.ZERO_BLOCK:
                    p = escape(S, test_slot(p, st.ZERO_READY), IF_EQUAL)
                p = put_look(S, p, w, decoded, offset, st.BLOCK_MOST - n, sharing)
                if S[st.LOOK]:
                    rows = note(S, rows, S[st.LOOK], ON_MISS, offset, executed, here)
                p = put_access(S, p, w, form, a, b, c)
            else:
                p = put_float(S, p, w, form, a, b)
            for k in range(S[st.ESCAPES]):
                rows = note(S, rows, load_i64(S[st.ESCAPES_HOST] + k * 8), TO_INTERPRET, offset, executed, here)
            S[st.ESCAPES] = 0
        elif form == t.BRANCH:
            if rs1(w) == 0:
                p = jump_if(integer.test(p, rs2(w)), b)
            else:
                p = jump_if(integer.compare_operands(p, rs1(hold(w, held)), rs2(w)), a)
            target = offset + (w >> 32)
            there = load_i64(codes + (target << 2)) if target >= 0 and target < 4096 else 0
            executed += 1
            if there > UNTRANSLATED:
                patch(p, there - S[st.CODE_SHIFT])
            elif there == UNTRANSLATED:
                rows = note(S, rows, p, TO_INTERPRET, target, executed, p)
            else:
                rows = note(S, rows, p, TO_CHAIN if target >= 0 and target < 4096 else BEYOND, target, executed, p)
            p += 4
            end_stretch(S, site, first, rows, executed)
            n += 1
            offset = following
            first = rows
            executed = is_open = held = 0
            if offset >= 4096 or load_i64(codes + (offset << 2)) != 0:
                break
            p = begin_stretch(p)
            site = p
            is_open = 1
            continue
        elif form == t.JUMP:
            if rd(w) != DISCARDED:
                host = host_or(rd(w), RAX)
                p = settle(page_address(p, host, following), rd(w), host)
            p = chain_to(S, p, codes, offset + (w >> 32))
            ended = 1
        else:
            p = load_x(p, RAX, rs1(w))
            p = op_immediate(add_constant(p, RAX, RAX, w >> 32), 4, RAX, -2, 1)
            if rd(w) != DISCARDED:
                host = host_or(rd(w), RCX)
                p = settle(page_address(p, host, following), rd(w), host)
            p = look_up_target(S, p)
            ended = 1
        if writes_x(form):
            stop_sharing(S, rd(w))
        held = rd(w) if leaves_in_rax(form) and HOST_OF[rd(w)] < 0 and rd(w) != DISCARDED else 0
        n += 1
        executed += 1
        offset = following
    if ended == 0:
        untranslated = offset < 4096 and n < st.BLOCK_MOST and load_i64(codes + (offset << 2)) == 0
        if untranslated:
            p = jump(p, p + 5)
            leave_by(S, p - 4, TO_INTERPRET, offset)
        else:
            p = chain_to(S, p, codes, offset)
    if is_open:
        end_stretch(S, site, first, rows, executed)
    if S[st.LEFT_AT]:
        rows = note(S, rows, S[st.LEFT_AT], S[st.LEFT_KIND], S[st.LEFT_FOR], 0, S[st.LEFT_AT])
    store_8(total, n)
    S[st.EMIT] = p
    put_ways_out(S, rows)
    return entry + S[st.CODE_SHIFT]
