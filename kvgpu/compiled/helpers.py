"""Functions that only compiled code calls: they are inlined into entry points and never become machine code.

Numba would optimise each of them, emit its machine code, and emit wrappers by which Python could call it. That is half
of the time in which kvgpu is compiled, and none of it runs.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from numba import _dynfunc  # type: ignore[attr-defined]
from numba.core import types
from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import CompilerBase, DefaultPassBuilder
from numba.core.compiler_machinery import register_pass
from numba.core.registry import CPUDispatcher
from numba.core.typed_passes import InlineOverloads, NativeLowering, NopythonRewrites
from numba.core.untyped_passes import InlineClosureLikes

F = TypeVar("F", bound=Callable[..., Any])


NEEDLESS = (InlineClosureLikes, InlineOverloads, NopythonRewrites)
"""Passes for what no helper has: closures, overloads that are inlined before LLVM, arithmetic of whole arrays."""


class _LinkedCode(JITCodeLibrary):
    """The code of a helper and of what it calls, which is only linked into that of its callers."""

    def _optimize_final_module(self) -> None:
        """Do nothing: an entry point is optimised after its helpers have become part of it."""

    def _finalize_final_module(self) -> None:
        """Emit no machine code."""
        self._finalized = True


@register_pass(mutates_CFG=True, analysis_only=False)
class _Lowering(NativeLowering):
    """Numba's pass that makes LLVM code of a function, for helpers."""

    _name = "kvgpu_helper_lowering"

    def run_pass(self, state: Any) -> bool:
        """Compile the function and tell Numba where its callers find it."""
        code = _LinkedCode(state.targetctx.codegen(), state.func_id.func_qualname)
        state["library"] = code
        state.flags.no_compile = True
        done: bool = super().run_pass(state)
        code.finalize()
        lowered = state.cr
        # The key under which callers find the code; address 0, since nothing calls it.
        name = lowered.fndesc.qualname.split(".")[-1]
        key = _dynfunc.make_function(lowered.fndesc.lookup_module(), name, "", 0, lowered.env, (code,))
        state.targetctx.insert_user_function(key, lowered.fndesc, [code])
        state.cr = lowered._replace(cfunc=key)
        return done


class _Pipeline(CompilerBase):
    """Numba's passes, with the one for helpers in place of its own."""

    def define_pipelines(self) -> list[Any]:
        """Return the passes."""
        passes = DefaultPassBuilder.define_nopython_pipeline(self.state)
        passes.passes = [
            (_Lowering if one is NativeLowering else one, why) for one, why in passes.passes if one not in NEEDLESS
        ]
        passes.finalize()
        return [passes]


class _Helper(CPUDispatcher):
    """A helper. Called from Python, it runs as plain Python: so do rules that are stated once for both."""

    def get_call_template(self, args: Any, kws: Any) -> Any:
        """Compile one function for all constants that it is given: as a part of its caller it knows them anyway."""
        return super().get_call_template(tuple(map(types.unliteral, args)), kws)

    def __call__(self, *arguments: Any) -> Any:
        """Call the Python function: there is no compiled one that Python could call."""
        return self.py_func(*arguments)


def helper(function: F, *, counts_references: bool) -> F:
    """Have Numba compile a function into each of its callers; called from Python it runs as plain Python.

    Args:
        function: What a compiled function calls.
        counts_references: Whether arrays that it takes and drops are counted, as they must be if it makes any.
    """
    compiler: Any = numba.njit  # its stubs do not know the options
    compiled = compiler(
        error_model="numpy",
        forceinline=True,
        pipeline_class=_Pipeline,
        no_cpython_wrapper=True,
        no_cfunc_wrapper=True,
        _nrt=counts_references,
    )(function)
    compiled.__class__ = _Helper
    return cast(F, compiled)
