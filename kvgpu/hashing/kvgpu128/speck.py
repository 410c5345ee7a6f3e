"""Speck128/256: a keyed permutation of 128 bits, in two words of 64 bits, for the last step of kvgpu128.

It is invertible. Its 34 rounds of add, rotate and xor need no tables and no special instructions, so it runs in the
vector lanes of a CPU and on a GPU.

Source: Beaulieu et al., "The SIMON and SPECK families of lightweight block ciphers", IACR ePrint 2013/404.
"""

from typing import Any, cast

import numpy as np
import numpy.typing as npt
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kvgpu.compiled.jit import leaf

ROUNDS = 34
KEY_BYTES = 32
LANES = 16
"""Blocks that are permuted together. With 8 the processor waits for results, and 32 do not fit into its registers
(measured for 8, 16 and 32: 9.0, 7.2 and 10.1 ns a block)."""
_MASK = (1 << 64) - 1


def _rotated(value: int, count: int) -> int:
    """Rotate 64 bits to the left."""
    return ((value << count) | (value >> (64 - count))) & _MASK


def round_keys(key: bytes) -> npt.NDArray[np.uint64]:
    """Expand a key of KEY_BYTES bytes (four words, lowest first) to uint64 [ROUNDS]."""
    word, *others = (int.from_bytes(key[i : i + 8], "little") for i in range(0, KEY_BYTES, 8))
    keys = []
    for place in range(ROUNDS):
        keys.append(word)
        mixed = ((_rotated(others[0], 56) + word) & _MASK) ^ place
        word = _rotated(word, 3) ^ mixed
        others = [*others[1:], mixed]
    return np.array(keys, np.uint64)


@intrinsic
def _encrypt_lanes(typing_context: Any, highs: Any, lows: Any, place: Any, keys: Any) -> Any:
    """Permute the LANES blocks (high, low) from `place` on in place, with the state in vector registers.

    In a loop over arrays every round would load and store the state.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lowering: Any = cgutils
        word, lanes = ir.IntType(64), ir.VectorType(ir.IntType(64), LANES)
        highs_type, lows_type, _, keys_type = signature.args

        def at(array_type: Any, array: Any, index: Any) -> Any:
            data = context.make_array(array_type)(context, builder, array).data
            return builder.gep(data, [index])

        def in_all_lanes(value: Any) -> Any:
            undefined = ir.Constant(lanes, ir.Undefined)
            first = builder.insert_element(undefined, value, ir.IntType(32)(0))
            places = ir.Constant(ir.VectorType(ir.IntType(32), LANES), [0] * LANES)
            return builder.shuffle_vector(first, undefined, places)

        def rotated(value: Any, count: int) -> Any:
            left, right = (ir.Constant(lanes, [shift] * LANES) for shift in (count, 64 - count))
            return builder.or_(builder.shl(value, left), builder.lshr(value, right))

        pointers = [
            builder.bitcast(at(kind, array, arguments[2]), lanes.as_pointer())
            for kind, array in ((highs_type, arguments[0]), (lows_type, arguments[1]))
        ]
        states = []
        for pointer in pointers:
            loaded = builder.load(pointer)
            loaded.align = 8
            states.append(lowering.alloca_once_value(builder, loaded))
        with lowering.for_range(builder, word(ROUNDS)) as loop:
            key = in_all_lanes(builder.load(at(keys_type, arguments[3], loop.index)))
            high, low = map(builder.load, states)
            high = builder.xor(builder.add(rotated(high, 56), low), key)
            low = builder.xor(rotated(low, 3), high)
            builder.store(high, states[0])
            builder.store(low, states[1])
        for pointer, state in zip(pointers, states, strict=True):
            builder.store(builder.load(state), pointer).align = 8
        return context.get_dummy_value()

    return types.void(highs, lows, types.int64, keys), generate


encrypt_lanes = cast(Any, _encrypt_lanes)


@leaf
def decrypt(high: Any, low: Any, keys: Any) -> Any:
    """Invert the permutation of one block."""
    for place in range(ROUNDS - 1, -1, -1):
        low ^= high
        low = (low >> np.uint64(3)) | (low << np.uint64(61))
        high = (high ^ keys[place]) - low
        high = (high << np.uint64(8)) | (high >> np.uint64(56))
    return high, low
