"""The passes that the engine's functions go through, which are those of Numba's that have an effect on them.

Numba looks for closures to inline, array expressions to fuse, branches that types decide and literal arguments; in a
module of plain functions over integers there is none of it, and looking takes a third of the time to compile. And it
resolves each call and operator anew, by trying every function of that name it knows: ``+`` has dozens. Here what was
found for a set of types is kept.
"""

from __future__ import annotations

import copy
from typing import Any

from numba import types
from numba.core import typed_passes, untyped_passes
from numba.core.compiler import CompilerBase
from numba.core.compiler_machinery import PassManager

from cpu_proc.engine.libraries import Lowering

_PASSES = (
    untyped_passes.TranslateByteCode,
    untyped_passes.FixupArgs,
    untyped_passes.IRProcessing,
    untyped_passes.ReconstructSSA,
    typed_passes.NopythonTypeInference,
    typed_passes.PreLowerStripPhis,
    typed_passes.IRLegalization,
    typed_passes.AnnotateTypes,
    Lowering,
    typed_passes.NoPythonBackend,
)
_PLAIN = (types.Integer, types.Boolean, types.Array)
_resolved: dict[Any, Any] = {}


def plain(kind: Any) -> Any:
    """Return the type that an argument is passed as: all integers are int64."""
    kind = types.unliteral(kind)
    return types.int64 if isinstance(kind, (types.Boolean, types.Integer)) else kind


def _remembering(typing: Any) -> Any:
    """Return a view of Numba's typing context that resolves a function for the same types once."""
    context = copy.copy(typing)

    def resolve(function: Any, args: Any, kws: Any) -> Any:
        if kws or not all(isinstance(kind, _PLAIN) for kind in args):
            return typing.resolve_function_type(function, args, kws)
        # no function of ours is compiled for the value of an argument
        kinds = tuple(map(plain if isinstance(function, types.Dispatcher) else types.unliteral, args))
        if (function, kinds) not in _resolved:
            _resolved[function, kinds] = typing.resolve_function_type(function, kinds, kws)
        return _resolved[function, kinds]

    context.resolve_function_type = resolve
    return context


class Pipeline(CompilerBase):
    """What Numba is told to compile with (``pipeline_class``)."""

    def define_pipelines(self) -> list[PassManager]:
        """Return the one list of passes; there is no other to fall back on."""
        self.state.typingctx = _remembering(self.state.typingctx)
        manager = PassManager("engine")
        for step in _PASSES:
            manager.add_pass(step, step.__name__)
        manager.finalize()
        return [manager]
