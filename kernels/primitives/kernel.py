"""What every launched kernel has in common: no argument chooses what is compiled."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import triton
import triton.language as tl


def kernel(*aligned: str) -> Callable[[Callable[..., None]], Any]:
    """`triton.jit` for kernels that serve: compiled once for a device and a set of constants, whatever the
    numbers are and wherever the tensors lie.

    Without it Triton compiles again, for seconds, where a number is 1 or a multiple of 16, or an address is no
    multiple of 16. Numbers need a type in the signature: else their size chooses one.

    Args:
        aligned: Pointers that the caller promises to be multiples of 16 bytes, so that two words are one load.
    """

    def jit(function: Callable[..., None]) -> Any:
        others = [
            name
            for name, parameter in signature(function).parameters.items()
            if name not in aligned and parameter.annotation is not tl.constexpr
        ]
        return triton.jit(function, do_not_specialize=others, do_not_specialize_on_alignment=others)

    return jit
