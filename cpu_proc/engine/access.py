"""Every load, store and atomic that misses the fast path, and what it may find there.

Three outcomes of a slow access: done; a trap (``S[EXIT]`` = trap, cause and tval set); or a stop in which Python serves
the device (``S[EXIT]`` = mmio). After the latter the instruction runs again, alone, and finds its answer in
``S[MMIO_DONE]``, so that no instruction needs a second half.
"""

from __future__ import annotations

from cpu_proc.engine import state as st
from cpu_proc.engine.debug import watched, watched_page
from cpu_proc.engine.jit import jit
from cpu_proc.engine.native import (
    call_3,
    load_i8,
    load_i16,
    load_i32,
    load_i64,
    load_u8,
    store_8,
    store_16,
    store_32,
    store_64,
)
from cpu_proc.engine.pmp import permitted, uniform
from cpu_proc.engine.posts import post_message
from cpu_proc.engine.tlb import ACCESS_FAULT, LOAD, STORE, data_entry, effective_privilege, fault, fill
from cpu_proc.engine.walk import translate
from cpu_proc.engine.windows import match_of, memory_host, plain_window, window_of

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def checked(S, va, size, access):
    """Return the physical address for an access within one page, or NOWHERE after recording a fault."""
    pa = translate(S, va, access)
    if S[st.EXIT] == 0 and not permitted(S, pa, size, access, effective_privilege(S, access)):
        return fault(S, ACCESS_FAULT[access], va)
    return pa


@jit
def keep(S, va, pa, host, access):
    """Enter the translation into the TLB, unless the page has parts of different protection, or is watched.

    ``host`` is where memory at ``pa`` is.
    """
    if S[st.WATCHES] and watched_page(S, va):
        return
    page = pa & -4096
    if uniform(S, page):
        privilege = effective_privilege(S, access)
        loads = access == LOAD or permitted(S, page, 1, LOAD, privilege)
        stores = access == STORE or (S[st.WRITABLE] and permitted(S, page, 1, STORE, privilege))
        fill(S, va, host, access, loads, stores and memory_host(S, page, 1, STORE) != 0)


@jit
def peek(host, size):
    if size == 8:
        return load_i64(host)
    if size == 4:
        return load_i32(host)
    if size == 2:
        return load_i16(host)
    return load_i8(host)


@jit
def poke(host, size, value):
    if size == 8:
        store_64(host, value)
    elif size == 4:
        store_32(host, value)
    elif size == 2:
        store_16(host, value)
    else:
        store_8(host, value)


@jit
def tag_of(S, va, access):
    """Return the page that the TLB has in the place of this one."""
    return load_i64(data_entry(S, va, access) + (st.DATA_STORES if access == STORE else st.DATA_LOADS))


@jit
def filled(S, va, size, access):
    """Have the TLB translate an access to memory that is within one page; tell whether it does now.

    Leaves no trap: what fails here fails again, and is recorded, where the access is executed.
    """
    if S[st.WATCHES] or (va & 0xFFF) + size > 4096:
        return False
    pa = checked(S, va, size, access)
    if S[st.EXIT] != 0:
        S[st.EXIT] = 0
        return False
    host = memory_host(S, pa, size, access)
    if host == 0:
        return False
    keep(S, va, pa, host, access)
    return tag_of(S, va, access) == va & -4096


@jit
def load_slow(S, va, size):
    """Load ``size`` bytes, sign-extended; look at ``S[EXIT]`` afterwards."""
    if (va & 0xFFF) + size > 4096:
        return load_split(S, va, size)
    pa = checked(S, va, size, LOAD)
    if S[st.EXIT] != 0:
        return 0
    if S[st.WATCHES] and watched(S, va, size, st.WATCH_LOADS):
        return 0
    host = memory_host(S, pa, size, LOAD)
    if host:
        keep(S, va, pa, host, LOAD)
        return peek(host, size)
    value = device_load(S, va, pa, size)
    bits = 64 - size * 8
    return (value << bits) >> bits


@jit
def load_split(S, va, size):
    """Load across a page boundary: each side is an access of its own, and both pages must be memory."""
    boundary = (va | 0xFFF) + 1
    first = checked(S, va, boundary - va, LOAD)
    if S[st.EXIT] != 0:
        return 0
    second = checked(S, boundary, va + size - boundary, LOAD)
    if S[st.EXIT] != 0:
        return 0
    value = 0
    for i in range(size):
        pa = first + i if va + i < boundary else second + (va + i - boundary)
        host = memory_host(S, pa, 1, LOAD)
        if host == 0:
            host = plain_window(S, pa, 1)
        if host == 0:
            fault(S, ACCESS_FAULT[LOAD], va + i)
            return 0
        value |= load_u8(host) << (8 * i)
    if S[st.WATCHES] and watched(S, va, size, st.WATCH_LOADS):
        return 0
    bits = 64 - size * 8
    return (value << bits) >> bits


@jit
def store_slow(S, va, size, value):
    """Store ``size`` bytes; look at ``S[EXIT]`` afterwards."""
    if (va & 0xFFF) + size > 4096:
        store_split(S, va, size, value)
        return
    pa = checked(S, va, size, STORE)
    if S[st.EXIT] != 0:
        return
    if S[st.WATCHES] and watched(S, va, size, st.WATCH_STORES):
        return
    host = memory_host(S, pa, size, STORE)
    if host:
        keep(S, va, pa, host, STORE)
        poke(host, size, value)
        return
    device_store(S, va, pa, size, value)


@jit
def store_split(S, va, size, value):
    """Store across a page boundary; both pages are checked before the first byte changes."""
    boundary = (va | 0xFFF) + 1
    first = checked(S, va, boundary - va, STORE)
    if S[st.EXIT] != 0:
        return
    second = checked(S, boundary, va + size - boundary, STORE)
    if S[st.EXIT] != 0:
        return
    low, high = memory_host(S, first, 1, STORE), memory_host(S, second, 1, STORE)
    if low == 0 or high == 0:
        fault(S, ACCESS_FAULT[STORE], boundary if low else va)
        return
    if S[st.WATCHES] and watched(S, va, size, st.WATCH_STORES):
        return
    for i in range(size):
        at = low + i if va + i < boundary else high + (va + i - boundary)
        store_8(at, value >> (8 * i))


@jit
def device_load(S, va, pa, size):
    """Load from a device: out of its page where that is allowed, else by a stop for Python."""
    if S[st.MMIO_DONE] == st.MMIO_REFUSED:
        return fault(S, ACCESS_FAULT[LOAD], va)
    if S[st.MMIO_DONE]:
        return S[st.MMIO_VALUE]
    plain = plain_window(S, pa, size)
    if plain:
        return peek(plain, size)
    if pa & (size - 1):
        return fault(S, ACCESS_FAULT[LOAD], va)
    row = window_of(S, pa, size)
    if row:
        offset = pa - load_i64(row + st.W_BASE * 8)
        kinds = load_i64(row + st.W_KINDS * 8)
        if kinds == 0:  # plain memory
            return peek(load_i64(row + st.W_IMAGE * 8) + offset, size)
        from_page = 1
        for i in range(size):
            if load_u8(kinds + offset + i) & 15 != 1:
                from_page = 0
        # a page-served read waits for posted writes: what is behind goes the long way, which flushes (DESIGN §7)
        if from_page and load_i64(load_i64(row + st.W_POSTED * 8)) == load_i64(load_i64(row + st.W_PROCESSED * 8)):
            S[st.PAGE_SERVED] += 1
            return peek(load_i64(row + st.W_IMAGE * 8) + offset, size)
    S[st.MMIO_ADDRESS] = pa
    S[st.MMIO_SIZE] = size
    S[st.MMIO_WRITE] = 0
    S[st.TVAL] = va
    S[st.EXIT] = st.EXIT_MMIO
    return 0


@jit
def message(S, pa, identity):
    """Deliver a store to the first register of an interrupt file, seteipnum_le; tell whether it was one."""
    here, file = pa - S[st.IMSIC_S_BASE], st.POSTED_SI0
    if here < 0 or here >= S[st.HARTS] << 12:
        here, file = pa - S[st.IMSIC_M_BASE], st.POSTED_MI0
        if here < 0 or here >= S[st.HARTS] << 12:
            return False
    post_message(S, here >> 12, file, identity)
    return True


@jit
def doorbell_of(row, offset, size, value):
    """Return the number of the doorbell that a store rings, or a negative one.

    Places tell doorbells apart (virtio 1.2 §4.1.4.4), or, with a stride of zero, the lower half of the value stored
    (§4.2.2); with NOTIFICATION_DATA the upper half says how far the driver has come (§2.9), which nobody needs to know.
    """
    distance = offset - load_i64(row + st.W_DOORBELL_OFFSET * 8)
    stride = load_i64(row + st.W_DOORBELL_STRIDE * 8)
    if distance < 0:
        return -1
    if stride > 0:
        return distance // stride
    if distance > 0 or size != 4:
        return -1
    return value & 0xFFFF


@jit
def device_store(S, va, pa, size, value):
    """Store to a device: plain storage and doorbells here, everything else by a stop for Python."""
    if S[st.MMIO_DONE] == st.MMIO_REFUSED:
        fault(S, ACCESS_FAULT[STORE], va)
    if S[st.MMIO_DONE]:
        return
    if pa & (size - 1):
        fault(S, ACCESS_FAULT[STORE], va)
        return
    if size == 4 and pa & 0xFFF == 0 and S[st.IMSIC_PRESENT] and message(S, pa, value & 0xFFFFFFFF):
        return
    row = window_of(S, pa, size)
    if row and load_i64(row + st.W_STORES * 8):
        offset = pa - load_i64(row + st.W_BASE * 8)
        kinds = load_i64(row + st.W_KINDS * 8) + offset
        write = load_u8(kinds) >> 4
        if load_u8(kinds + size - 1) >> 4 == write:
            if write == 1:
                poke(load_i64(row + st.W_IMAGE * 8) + offset, size, value)
                return
            if write in (2, 5):
                bell = doorbell_of(row, offset, size, value)
                if bell >= 0 and bell < load_i64(row + st.W_DOORBELLS * 8):
                    if write == 5:
                        poke(load_i64(row + st.W_IMAGE * 8) + offset, size, value)
                    fd = load_i32(load_i64(row + st.W_DOORBELL_FDS * 8) + bell * 4)
                    call_3(S[st.WRITE_FUNCTION], fd, S[st.ONE_HOST], 8)
                    S[st.DOORBELLS] += 1
                    return
            if write == 6 and size == 4 and load_i64(row + st.W_MATCHES * 8):
                fd = match_of(load_i64(row + st.W_MATCHES * 8), value & 0xFFFFFFFF)
                if fd >= 0:
                    call_3(S[st.WRITE_FUNCTION], fd, S[st.ONE_HOST], 8)
                    S[st.DOORBELLS] += 1
                    return
    S[st.MMIO_ADDRESS] = pa
    S[st.MMIO_SIZE] = size
    S[st.MMIO_VALUE] = value
    S[st.MMIO_WRITE] = 1
    S[st.TVAL] = va
    S[st.EXIT] = st.EXIT_MMIO


@jit
def host_for_atomic(S, va, size, access):
    """Return the host address for an AMO or SC (``STORE``) or an LR (``LOAD``), or 0 after recording a trap.

    To a watchpoint, an SC is an access of both kinds, as an AMO is.
    """
    if va & (size - 1):
        fault(S, 6 if access == STORE else 4, va)  # address misaligned
        return 0
    if tag_of(S, va, access) == va & -4096:
        return va + load_i64(data_entry(S, va, access) + st.DATA_ADDEND)
    pa = checked(S, va, size, access)
    if S[st.EXIT] != 0:
        return 0
    host = memory_host(S, pa, size, access)
    if host == 0:
        fault(S, ACCESS_FAULT[access], va)
        return 0
    kinds = st.WATCH_LOADS if access == LOAD else st.WATCH_LOADS | st.WATCH_STORES
    if S[st.WATCHES] and watched(S, va, size, kinds):
        return 0
    keep(S, va, pa, host, access)
    return host
