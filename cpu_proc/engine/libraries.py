"""What Numba compiles a function into: a part, which is only ever linked into others, or a whole, which is executed.

Numba makes a whole of every function: it links all that the function calls, optimises that together and emits machine
code, so that what many call is optimised and emitted again for each of them. Here only a few functions are called from
outside (``engine.jit.entry``). The others stay as they were lowered, and are optimised where they are linked.

What of the parts is left in a whole is its own. Numba would leave it shared between wholes ("linkonce_odr"), and the
linker at run time takes the first definition of a name, which may be one of a module that has no code yet.
"""

from __future__ import annotations

from typing import Any

from llvmlite import binding
from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import codegen, typed_passes
from numba.core.compiler import Flags
from numba.core.compiler_machinery import register_pass

from cpu_proc.engine.lowering import Lower

_USED = ("_optimize_final_module", "_get_module_for_linking", "_ensure_finalized", "finalize")
if missing := [name for name in _USED if not hasattr(codegen.JITCodeLibrary, name)]:
    raise ImportError(f"this Numba release is not supported: numba.core.codegen has no JITCodeLibrary.{missing[0]}")
if not hasattr(Flags, "no_compile"):
    raise ImportError("this Numba release is not supported: numba.core.compiler.Flags.no_compile is gone")
_SHARED = binding.Linkage.linkonce_odr


class Part(codegen.JITCodeLibrary):
    """Code that is linked into others, and never executed by itself."""

    def finalize(self) -> None:
        """Make what is here known to whoever links it; nothing is optimised."""
        for function in self._final_module.functions:
            if not function.is_declaration:
                function.linkage = _SHARED
        self._finalized = True

    def _get_module_for_linking(self) -> Any:
        return self._final_module

    def needed(self) -> list[Any]:
        """Return the libraries that a caller has to link: a part does not hold what it calls."""
        return [self, *self._linking_libraries]


class Whole(codegen.JITCodeLibrary):
    """Code with all that it calls."""

    def _optimize_final_module(self) -> None:
        super()._optimize_final_module()
        # not before: a function that is known to have one caller is inlined whatever its size, which costs the
        # interpreter 5 %
        for function in self._final_module.functions:
            if function.linkage == _SHARED and not function.is_declaration:
                function.linkage = binding.Linkage.internal


@register_pass(mutates_CFG=True, analysis_only=False)
class Lowering(typed_passes.BaseNativeLowering):
    """Make a whole of what has a wrapper for Python, and a part of everything else."""

    _name: Any = "lowering"

    @property
    def lowering_class(self) -> Any:
        """Return the class that turns Numba's representation into LLVM's."""
        return Lower

    def run_pass(self, state: Any) -> bool:
        """Lower one function."""
        kind = Part if state.flags.no_cpython_wrapper else Whole
        state.library = kind(state.targetctx.codegen(), state.func_id.func_qualname)
        if kind is Whole:
            state.library.enable_object_caching()
            return bool(super().run_pass(state))
        flags = state.flags
        state.flags = flags.copy()
        state.flags.no_compile = True  # which Numba has for GPUs: stop after lowering
        super().run_pass(state)
        state.flags = flags
        lowered = state.cr.fndesc
        state.library.finalize()
        # callers find a function by the object that Python would call; this one has no address
        module = lowered.lookup_module()
        handle = _dynfunc.make_function(module, lowered.qualname, "", 0, state.cr.env, (state.library,))
        state.targetctx.insert_user_function(handle, lowered, state.library.needed())
        state.cr = state.cr._replace(cfunc=handle)
        return True
