"""The decorators of all compiled code: one specialisation a function.

Numba would compile a function anew for every combination of literal arguments it meets; with some 140 functions that
doubles the first start. Everything here is int64 but the state vector, so that one signature serves all callers.

Nothing compiled here allocates, so references are not counted: for every call that passed the state vector on, Numba
put an atomic increment and decrement around it, which was half the time of a floating-point instruction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from cpu_proc.engine.pipeline import Pipeline, plain


def _compiled(function: Callable[..., Any], **options: Any) -> Any:
    options |= {"nogil": True, "_nrt": False, "pipeline_class": Pipeline}
    dispatcher: Any = njit(**options)(function)
    template = dispatcher.get_call_template

    def get_call_template(args: Any, kws: Any) -> Any:
        return template(tuple(plain(a) for a in args), kws)

    dispatcher.get_call_template = get_call_template
    return dispatcher


def jit(function: Callable[..., Any]) -> Any:
    """Compile ``function`` when compiled code first calls it; Python cannot call it, which saves its wrappers."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def inlined(function: Callable[..., Any]) -> Any:
    """As ``jit``, for a short function that becomes part of every caller: a call passes all of the state vector."""
    return _compiled(function, no_cpython_wrapper=True, no_cfunc_wrapper=True, forceinline=True)


def entry(function: Callable[..., Any]) -> Any:
    """Compile a function that Python calls; it runs without the interpreter's lock, and is kept in the cache."""
    return _compiled(function, cache=True)


def address(function: Any) -> int:
    """Return where compiled code may call a compiled ``entry``, whose arguments are all integers."""
    (result,) = function.overloads.values()
    found = int(result.library.get_pointer_to_function(result.fndesc.llvm_cfunc_wrapper_name))
    assert found
    return found
