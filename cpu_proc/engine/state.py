"""The state of one hart: where each value lies in its ``int64`` vector ``S``.

The vector is all that compiled code and Python share about a hart besides ``x`` and ``f``. Slots are declared once,
here, in groups; their numbers are module constants, which Numba freezes into the compiled code.
"""

from __future__ import annotations

_ARCHITECTURAL = """
PC PRIV INSTRET MINSTRET_BASE MCYCLE_BASE RESERVATION RESERVED_VALUE
FFLAGS FRM
MSTATUS MEDELEG MIDELEG MIE MIP MTVEC MCOUNTEREN MSCRATCH MEPC MCAUSE MTVAL MENVCFG MCOUNTINHIBIT
PMPCFG0 PMPCFG2 PMPADDR0 PMPADDR1 PMPADDR2 PMPADDR3 PMPADDR4 PMPADDR5 PMPADDR6 PMPADDR7
PMPADDR8 PMPADDR9 PMPADDR10 PMPADDR11 PMPADDR12 PMPADDR13 PMPADDR14 PMPADDR15
MISELECT MVENDORID MARCHID MIMPID MHARTID MSTATEEN0 MSTATEEN1 MSTATEEN2 MSTATEEN3
STVEC SCOUNTEREN SSCRATCH SEPC SCAUSE STVAL SENVCFG SATP STIMECMP SISELECT
"""

# IMSIC interrupt files of M and of S: delivery, threshold, then 4 words each of pending and enabled (ids 1-255)
_IMSIC = """
MI_DELIVERY MI_THRESHOLD MI_EIP0 MI_EIP1 MI_EIP2 MI_EIP3 MI_EIE0 MI_EIE1 MI_EIE2 MI_EIE3
SI_DELIVERY SI_THRESHOLD SI_EIP0 SI_EIP1 SI_EIP2 SI_EIP3 SI_EIE0 SI_EIE1 SI_EIE2 SI_EIE3
"""

# The engine's own: what it needs of the host, how it left, and the access that Python completes
_ENGINE = """
EXIT CAUSE TVAL TIMER_DUE
MMIO_ADDRESS MMIO_SIZE MMIO_VALUE MMIO_DONE MMIO_WRITE
RAM_BASE RAM_SIZE RAM_HOST DEC_HOST COPY_HOST PAGE_GENERATION_HOST GENERATION
TLB_HOST FILLED_HOST FILLED FILLED_FETCHES CROSSING_HOST CROSSING_KEPT UNDECODED_HOST
PMP_OPEN WINDOWS_HOST WINDOWS MEMORIES LOOK_HOST
CLOCK_FUNCTION READ_FUNCTION WRITE_FUNCTION PPOLL_FUNCTION MEMCMP_FUNCTION TIMESPEC_HOST ONE_HOST
FLOATING_FUNCTION TRANSLATE_FUNCTION
CLOCK_OFFSET_HOST CLOCK_RUNNING_HOST CLOCK_STOPPED_HOST ICOUNT ICOUNT_BASE
BUILTIN_SBI STOP_REQUEST BUDGET REMAINING MTIMECMP IMSIC_PRESENT IMSIC_S_BASE IMSIC_M_BASE LINES
SELF_HOST HARTS HARTS_HOST RUNNING SLEEPING WAKE_FD COLLECTED SEEN
IRQ_FD WATCH_HOST SLEEP_NS TIMEOUT_HOST POLLFDS_HOST
BREAKS BREAKS_HOST WATCHES WATCHES_HOST WATCH_HIT STEPPING
WALKS WRITABLE TLB_FLUSHES PAGE_FLUSHES FETCH_MISSES DECODES PAGE_SERVED DOORBELLS TRAPS INTERRUPTS
"""

# The translator: its buffer, written at one address and executed at another, and where blocks are
_TRANSLATOR = """
TRANSLATING CODE_BASE CODE_START CODE_LIMIT EMIT WAYS_START WAYS_LIMIT EMIT_WAYS CODE_SHIFT CODE_HOST
TRAMPOLINE GET_MXCSR SET_MXCSR MXCSR MXCSR_CLEAR
JUMPS_HOST JUMPS KEPT_HOST KEPT CODE_PAGE FUEL FLOAT_READY INTERPRET MISS_AT MISS_VA STRADDLES_HOST
FIXUPS_HOST ESCAPES_HOST ESCAPES BOXED SHARED LOOK ZERO_READY LEFT_AT LEFT_KIND LEFT_FOR
MEMSET_FUNCTION MADVISE_FUNCTION BLOCKS CHAINS ENTRIES INTERPRETED CODE_FLUSHES
"""

# What other threads leave for the hart, by atomic operations alone (engine.posts)
_POSTED = """
WANTED POSTED_FLUSH POSTED_MIP
POSTED_MI0 POSTED_MI1 POSTED_MI2 POSTED_MI3 POSTED_SI0 POSTED_SI1 POSTED_SI2 POSTED_SI3
"""

POSTED = tuple(_POSTED.split())
# What a saved hart consists of; the rest is the host's, or follows from this
SAVED = (
    *(_ARCHITECTURAL + _IMSIC).split(),
    *["TIMER_DUE", "MTIMECMP", "LINES", "BUILTIN_SBI", "PMP_OPEN", "ICOUNT_BASE"],
    *["MMIO_ADDRESS", "MMIO_SIZE", "MMIO_VALUE", "MMIO_DONE", "MMIO_WRITE"],
    *(name for name in POSTED if name not in ("WANTED", "POSTED_FLUSH")),
)
NAMES = (_ARCHITECTURAL + _IMSIC + _ENGINE + _TRANSLATOR + _POSTED).split()
SLOTS = {name: index for index, name in enumerate(NAMES)}
# After the named slots, a bit per place that the TLB may hold through a superpage: 1 GiB, then 2 MiB by a hash
GIGA_PLACES, MEGA_PLACES = 256, 264
MEGA_WORDS = 64
# and a bit per page (by its address modulo 16 MiB) that the cache of jumps may lead to
JUMP_PAGES, JUMP_PAGE_WORDS = MEGA_PLACES + MEGA_WORDS, 64
# Of the block in hand, by base register, for loads and for stores: what to add to the base for the host's address, and
# the displacements, lowest and end, for which that is known to be right
ADDENDS = JUMP_PAGES + JUMP_PAGE_WORDS
LOWEST, ENDS = ADDENDS + 64, ADDENDS + 128
FLAGS_TABLE = ADDENDS + 192  # 64 bytes: by the flags of the host's MXCSR, those of fflags
SIZE = FLAGS_TABLE + 8
# The registers lie behind the vector, so that one base reaches all: x0 to x31, where x0's results go, f0 to f31
X_AT = SIZE
F_AT = X_AT + 33
ALL = F_AT + 32
globals().update(SLOTS)

# Why `run` came back (S[EXIT])
EXIT_NONE, EXIT_TRAP, EXIT_MMIO, EXIT_WFI, EXIT_SBI, EXIT_LOOK, EXIT_STOP, EXIT_BUDGET, EXIT_DEBUG = range(9)
EXIT_NAMES = ("none", "trap", "mmio", "wfi", "sbi", "look", "stop", "budget", "debug")

BLOCK_MOST = 48  # instructions in one translated block
LEAVE_AT = 128  # where in the buffer blocks jump to when they are left
JUMP_MASK = 0x1FFE  # of a virtual address, mixed: which entry of the cache of jumps
JUMP_MIX = 12  # by so many bits the address is rotated for the mixture
JUMP_BYTES = (JUMP_MASK + 2) * 8  # of one mode: (address, host code) for every parcel under the mask
KEPT_MOST = 2048  # of these, that are remembered, so that forgetting need not go through all
STRADDLES_MOST = 32  # of a page's accesses across pages, until its code looks into the TLB for each access

# Instructions that begin on one page and end on the next: (address, decoded word), forgotten with the translations
CROSSINGS = 64

MMIO_SERVED, MMIO_REFUSED = 1, 2  # S[MMIO_DONE]

# A debugger's tables: breakpoints are virtual addresses; watchpoints have a row of first and last address and what
# they watch for. S[WATCH_HIT] is the number of the row that was hit, plus one.
WATCH_WORDS = 3
WATCH_STORES, WATCH_LOADS = 1, 2
# Bits of S[STEPPING]: breakpoints and watchpoints are passed, interrupts are not taken; with any, WFI does not sleep
PASS_BREAKS, PASS_WATCHES, HOLD_INTERRUPTS, NO_SLEEP = 1, 2, 4, 8

# TLB: 1024 entries a mode. Of data: tags for loads and for stores, what to add for the host's address, nothing; after
# them of fetches: tag, host address of the decoded page.
TLB_ENTRIES = 1024
TLB_MODES = 4  # U, S, S with SUM, M
DATA_BYTES, FETCH_BYTES = 32, 16  # of an entry
DATA_LOADS, DATA_STORES, DATA_ADDEND = 0, 8, 16
TLB_FETCHES = TLB_MODES * TLB_ENTRIES * DATA_BYTES // 8
TLB_WORDS = TLB_FETCHES + TLB_MODES * TLB_ENTRIES * FETCH_BYTES // 8
FILLED_MOST = 1024  # entries that are remembered as filled, so that forgetting need not go through all

# One row per window that compiled code may serve: of a remote device from its page, or of ROM or flash
WINDOW_WORDS = 14
(
    W_BASE,
    W_SIZE,
    W_IMAGE,
    W_KINDS,  # 0: plain memory, of which W_STORES says nothing; posted and processed do not matter then
    W_POSTED,
    W_PROCESSED,
    W_STORES,  # 1: stores and doorbells may be served too
    W_DOORBELL_OFFSET,
    W_DOORBELL_STRIDE,  # 0: the value stored says which
    W_DOORBELLS,
    W_DOORBELL_FDS,
    W_CODE,  # 1: instructions may be fetched from the image
    W_MEMORY,  # 1: whole pages that the TLB may enter, for loads; 2: and for stores
    W_MATCHES,  # a sorted table of values stored and the eventfd of each (`engine.windows.match_of`), or 0
) = range(14)

TICK_NS = 100  # of guest time: the time base is 10 MHz
CACHE_BLOCK = 64  # bytes that a cache-block operation works on
ICOUNT_PER_TICK = 10  # instructions, where they are the clock
FLUSH_TRANSLATIONS, FLUSH_CODE = 1, 2  # bits of POSTED_FLUSH

# Privilege levels
U, S, M = 0, 1, 3
