"""What the form of an instruction says about it."""

from __future__ import annotations

from cpu_proc.engine.jit import jit
from cpu_proc.engine.x86 import templates as t
from cpu_proc.engine.x86.templates import FORMS

FFLAGS = 1  # the number of the CSR

# mypy: disable-error-code="no-untyped-def, no-untyped-call, attr-defined, untyped-decorator"


@jit
def form_of(w):
    """Return the form of a decoded word, or NOTHING: then the interpreter executes it."""
    form = FORMS[w & 0x3FF, 0]
    if form == t.EXCHANGE_FLAGS:
        reads = FORMS[w & 0x3FF, 1] == 1
        return form if w >> 32 & 0xFFF == FFLAGS and (not reads or w >> 16 & 31 == 0) else t.NOTHING
    if form > t.LAST_MEMORY and form < t.LAST_FLOAT:
        rounding = w >> 32 & 7
        if rounding not in (0, 7) and not (rounding == 1 and form == t.TO_INTEGER):
            return t.NOTHING
    return form


@jit
def ends(form):
    """Tell whether nothing behind an instruction of this form belongs to its block."""
    return form == t.NOTHING or form > t.BRANCH


@jit
def is_store(form):
    """Tell whether the access needs a page that may be written."""
    return form > t.LAST_LOAD


@jit
def is_atomic(form):
    """Tell whether the access needs alignment."""
    return t.LOAD_RESERVED <= form <= t.STORE_CONDITIONAL


@jit
def writes_x(form):
    """Tell whether rd is an integer register that is written."""
    return form < t.LAST_VALUE or t.FLOAT_LOAD < form < t.FLOAT_STORE or t.EXCHANGE_FLAGS <= form <= t.MOVE_TO_INTEGER
