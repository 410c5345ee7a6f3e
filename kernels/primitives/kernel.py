"""`kernel`: the decorator of all kernels that are launched, with which no argument triggers another compilation."""

from collections.abc import Callable
from inspect import signature
from typing import Any

import triton
import triton.language as tl


def kernel(*aligned: str) -> Callable[[Callable[..., None]], Any]:
    """Apply `triton.jit` so that a kernel is compiled once for a device and a set of constants.

    Values of numbers and addresses of tensors then do not matter. Otherwise Triton would compile again, for seconds,
    if a number is 1 or a multiple of 16, or an address is not a multiple of 16. Numbers need a type in the signature:
    otherwise their size determines it.

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
