"""`jit` and related decorators for functions that Numba compiles, and instructions that Numba cannot express.

`kvgpu.compiled.cache` stores the machine code of entry points.
"""

from collections.abc import Callable
from typing import Any, TypeVar, cast

import numba
from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from kvgpu.compiled.cache import cache_of
from kvgpu.compiled.cache_lines import CACHE_LINE
from kvgpu.compiled.helpers import helper
from kvgpu.errors import ConfigError

if cast(Any, numba).config.DISABLE_JIT:
    raise ConfigError("NUMBA_DISABLE_JIT is set, but kvgpu works only if it is compiled: unset the variable")

AHEAD = 8
"""Rounds of a loop between prefetching a cache line and using it."""

F = TypeVar("F", bound=Callable[..., Any])


def _entry_point(function: F, **options: bool) -> F:
    compiler: Any = numba.njit  # its stubs do not know `_nrt`
    compiled = compiler(error_model="numpy", _nrt=True, **options)(function)
    # Numba's own `cache=True` trusts every file in whatever folder its environment variables name.
    compiled._cache = cache_of(function)
    return cast(F, compiled)


def jit(function: F) -> F:
    """Compile an entry point that Python calls; the machine code is stored on disk."""
    return _entry_point(function)


def nogil(function: F) -> F:
    """Compile as `jit` does, but release the GIL: other threads may run, but must not change the arguments' arrays."""
    return _entry_point(function, nogil=True)


def inline(function: F) -> F:
    """Compile a helper that only compiled code calls; it becomes part of its callers.

    Inlining is forced: a call that is not inlined copies the headers of its arrays and counts references, which
    makes a probe three times as slow (measured: 31 ns instead of 11 ns a hit).
    """
    return helper(function, counts_references=True)


def _address(context: Any, builder: Any, array_type: Any, array: Any, index_type: Any, index: Any) -> Any:
    """Emit the address of element or row `index` of an array that is contiguous after its first axis."""
    lowering: Any = cgutils
    header = context.make_array(array_type)(context, builder, array)
    index = context.cast(builder, index, index_type, types.intp)
    if array_type.layout == "C":
        # From the shape, as Numba indexes such an array: then compiled code computes the place once for both.
        for length in lowering.unpack_tuple(builder, header.shape)[1:]:
            index = builder.mul(index, length)
        return lowering.gep(builder, header.data, index)
    stride = lowering.unpack_tuple(builder, header.strides)[0]
    return lowering.pointer_add(builder, header.data, builder.mul(index, stride))


def leaf(function: F) -> F:
    """Compile as `inline` does, but without reference counting, for a helper that makes no array.

    Functions that a leaf calls count references if they say so. `jit` and `inline` say so explicitly, because Numba
    would pass the option on to functions that are first compiled on behalf of a leaf.

    Numba counts a reference for every array that a function takes. Where it cannot eliminate the pair, as in a loop
    with several exits, this costs two locked instructions per array and call: half of the time of an insert. A leaf
    that returns arrays returns them without an owner, so only leaves may call it.
    """
    return helper(function, counts_references=False)


def _load_ahead(builder: Any, address: Any) -> None:
    """Emit the instruction that starts loading a cache line."""
    lowering: Any = cgutils
    word = ir.IntType(32)
    hint = lowering.get_or_insert_function(
        builder.module, ir.FunctionType(ir.VoidType(), [lowering.voidptr_t, word, word, word]), "llvm.prefetch.p0"
    )
    for_reading, keep, data = word(0), word(3), word(1)
    address = builder.bitcast(address, lowering.voidptr_t)
    builder.call(hint, [address, for_reading, keep, data])


@intrinsic
def _prefetch(typing_context: Any, array: Any, index: Any) -> Any:
    """Start loading element or row `index` (int64) of a C-contiguous array into the cache.

    A loop that calls this some rounds ahead overlaps cache misses that would otherwise come one after the other.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, index_type = signature.args
        address = _address(context, builder, array_type, arguments[0], index_type, arguments[1])
        _load_ahead(builder, address)
        return context.get_dummy_value()

    return types.void(array, index), generate


@intrinsic
def _put_word(typing_context: Any, array: Any, place: Any, word: Any) -> Any:
    """Write eight bytes, lowest first, at any index of a contiguous uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, place_type, _ = signature.args
        address = _address(context, builder, array_type, arguments[0], place_type, arguments[1])
        address = builder.bitcast(address, ir.IntType(64).as_pointer())
        builder.store(arguments[2], address).align = 1
        return context.get_dummy_value()

    return types.void(array, place, types.uint64), generate


@intrinsic
def _word_at(typing_context: Any, array: Any, place: Any) -> Any:
    """Read eight bytes, lowest first, from any index of a contiguous uint8 array."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, place_type = signature.args
        address = _address(context, builder, array_type, arguments[0], place_type, arguments[1])
        word = builder.load(builder.bitcast(address, ir.IntType(64).as_pointer()))
        word.align = 1
        return word

    return types.uint64(array, place), generate


@intrinsic
def _pointer(typing_context: Any, address: Any, like: Any) -> Any:
    """Convert an address (int64) to a pointer to elements of an array's type."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        kind = context.get_value_type(signature.return_type)
        return builder.inttoptr(arguments[0], kind)

    return cast(Any, types).CPointer(like.dtype)(types.int64, like), generate


@intrinsic
def _word_from(typing_context: Any, address: Any) -> Any:
    """Read eight bytes of memory, lowest first, from an address (int64) that is a multiple of eight."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return types.int64(types.int64), generate


@intrinsic
def _call_code(typing_context: Any, code: Any, first: Any, second: Any, third: Any) -> Any:
    """Call the code at an address (int64) that `address_of_code` returned: it takes three int64, and raises nothing."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        lowering: Any = cgutils
        word, error = ir.IntType(64), lowering.voidptr_t
        kind = ir.FunctionType(ir.IntType(32), [word.as_pointer(), error.as_pointer(), word, word, word])
        result, raised = (lowering.alloca_once(builder, place) for place in (word, error))
        builder.call(builder.inttoptr(arguments[0], kind.as_pointer()), [result, raised, *arguments[1:]])
        return builder.load(result)

    return types.int64(types.int64, types.int64, types.int64, types.int64), generate


@intrinsic
def _prefetch_at(typing_context: Any, address: Any) -> Any:
    """Do what `prefetch` does for an address (int64)."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        _load_ahead(builder, builder.inttoptr(arguments[0], ir.IntType(8).as_pointer()))
        return context.get_dummy_value()

    return types.void(types.int64), generate


def _lane(array_type: Any) -> tuple[Any, int]:
    """Return the type of a word of an array whose rows are cache lines, and how many a row has."""
    bits = array_type.dtype.bitwidth
    return ir.IntType(bits), 8 * CACHE_LINE // bits


@intrinsic
def _lanes_equal(typing_context: Any, array: Any, row: Any, value: Any, shift: Any) -> Any:
    """Return a mask: bit i says whether word i of a row that is a cache line, shifted right, equals `value`.

    This is one vector comparison; the loop that it replaces took as long as a cache miss.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, row_type, value_type, shift_type = signature.args
        address = _address(context, builder, array_type, arguments[0], row_type, arguments[1])
        lane, width = _lane(array_type)
        lanes = ir.VectorType(lane, width)
        words = builder.load(builder.bitcast(address, lanes.as_pointer()))
        words.align = lane.width // 8

        def in_all_lanes(argument: Any, argument_type: Any) -> Any:
            scalar = context.cast(builder, argument, argument_type, array_type.dtype)
            first = builder.insert_element(ir.Constant(lanes, ir.Undefined), scalar, ir.IntType(32)(0))
            places = ir.Constant(ir.VectorType(ir.IntType(32), width), [0] * width)
            return builder.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), places)

        shifted = builder.lshr(words, in_all_lanes(arguments[3], shift_type))
        equal = builder.icmp_unsigned("==", shifted, in_all_lanes(arguments[2], value_type))
        return builder.zext(builder.bitcast(equal, ir.IntType(width)), ir.IntType(64))

    return types.int64(array, row, value, shift), generate


@intrinsic
def _push_word(typing_context: Any, array: Any, row: Any, word: Any) -> Any:
    """Put a word in front of a row that is a cache line; its last one leaves. One load and one store."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        array_type, row_type, word_type = signature.args
        address = _address(context, builder, array_type, arguments[0], row_type, arguments[1])
        lane, width = _lane(array_type)
        lanes, places = ir.VectorType(lane, width), ir.VectorType(ir.IntType(32), width)
        place = builder.bitcast(address, lanes.as_pointer())
        words = builder.load(place)
        words.align = lane.width // 8
        scalar = context.cast(builder, arguments[2], word_type, array_type.dtype)
        first = builder.insert_element(ir.Constant(lanes, ir.Undefined), scalar, ir.IntType(32)(0))
        pushed = builder.shuffle_vector(first, words, ir.Constant(places, [0, *range(width, 2 * width - 1)]))
        builder.store(pushed, place).align = lane.width // 8
        return context.get_dummy_value()

    return types.void(array, row, word), generate


@intrinsic
def _lowest_bit(typing_context: Any, mask: Any) -> Any:
    """Return the position of the lowest set bit of an int64 that is not 0."""

    lowering: Any = cgutils

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        word, bit = ir.IntType(64), ir.IntType(1)
        count = lowering.get_or_insert_function(builder.module, ir.FunctionType(word, [word, bit]), "llvm.cttz.i64")
        return builder.call(count, [arguments[0], bit(1)])

    return types.int64(types.int64), generate


prefetch: Callable[[Any, int], None] = cast(Any, _prefetch)
put_word: Callable[[Any, int, Any], None] = cast(Any, _put_word)
word_at: Callable[[Any, int], Any] = cast(Any, _word_at)
word_from: Callable[[int], int] = cast(Any, _word_from)
prefetch_at: Callable[[int], None] = cast(Any, _prefetch_at)
call_code: Callable[[int, int, int, int], int] = cast(Any, _call_code)
pointer: Callable[[int, Any], Any] = cast(Any, _pointer)
carray: Callable[..., Any] = cast(Any, numba).carray  # its stubs do not export it
lanes_equal: Callable[[Any, int, int, int], int] = cast(Any, _lanes_equal)
push_word: Callable[[Any, int, int], None] = cast(Any, _push_word)
lowest_bit: Callable[[int], int] = cast(Any, _lowest_bit)


def python_of(function: F) -> F:
    """Return the plain Python function that a compiled function was made from."""
    return cast(F, cast(Any, function).py_func)
