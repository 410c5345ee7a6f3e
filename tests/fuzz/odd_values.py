"""Values that an argument should not have, and arguments that are damaged a little."""

from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.state import KVCacheBlock

INTEGERS = (
    -1,
    0,
    1,
    -2,
    -100,
    2,
    3,
    5,
    7,
    9,
    29,
    30,
    31,
    100,
    127,
    128,
    255,
    1000,
    2**15,
    2**31 - 1,
    2**31,
    2**32 + 5,
    2**40,
    2**62,
    2**63 - 1,
    2**63,
    2**64,
    10**30,
    -(2**31),
    -(2**31) - 1,
    -(2**63),
    -(2**63) - 1,
)


class Raising:
    """An object all of whose special methods raise."""

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def __len__(self) -> int:
        raise TypeError("no length")

    def __bool__(self) -> bool:
        raise ValueError("neither true nor false")


OTHERS: tuple[Callable[[], Any], ...] = (
    lambda: None,
    lambda: True,
    lambda: False,
    lambda: 0.5,
    lambda: 5.9,
    lambda: float("nan"),
    lambda: float("inf"),
    lambda: "",
    lambda: "5",
    lambda: "\ud800",
    lambda: b"",
    lambda: b"x" * 16,
    list,
    lambda: [1],
    lambda: [-1],
    lambda: [1, 2.5],
    lambda: [None],
    lambda: [[1]],
    lambda: [2**70],
    lambda: (),
    dict,
    lambda: {"a": 1},
    lambda: set(),
    lambda: object(),
    lambda: Raising(),
    lambda: 1 + 2j,
    lambda: Fraction(5, 2),
    lambda: range(3),
    lambda: np.int64(-1),
    lambda: np.int64(3),
    lambda: np.float64(3.0),
    lambda: np.uint64(2**64 - 1),
    lambda: np.bool_(True),
    lambda: np.array(3),
    lambda: np.array([1, 2, 3]),
    lambda: np.zeros(0),
    lambda: np.array([127], np.uint64),
    lambda: np.array([2**63], np.uint64),
    lambda: np.array([-1], np.int32),
    lambda: np.array([5000], np.int32),
    lambda: np.array([2**31 - 1], np.int32),
    lambda: np.array(["a"]),
    lambda: np.array([None]),
    lambda: np.array([[1, 2], [3, 4]]),
    lambda: np.array([0.5, 1.5]),
    lambda: np.broadcast_to(np.int64(1), 3),
    lambda: np.arange(6)[::2],
    lambda: np.arange(6)[::-1],
    lambda: np.arange(3, dtype=">i8"),
    lambda: np.datetime64("2020-01-01"),
    lambda: SimpleNamespace(),
    lambda: [KVCacheBlock(3)],
    lambda: [KVCacheBlock(-1)],
    lambda: [KVCacheBlock(2**40)],
    lambda: KVCacheBlocks(([KVCacheBlock(3)],)),
    lambda: KVCacheBlocks((np.array([2**31 - 1], np.int32),)),
    lambda: KVCacheBlocks((np.array([-3], np.int32), [])),
    lambda: KVCacheBlocks(()),
    lambda: KVCacheBlocks((None,)),
    lambda: iter([1, 2]),
    lambda: (_ for _ in ()),
    lambda: type,
    lambda: len,
)


def odd_value(rng: Any) -> Any:
    """Any value of the above."""
    if rng.random() < 0.5:
        return rng.choice(INTEGERS)
    return rng.choice(OTHERS)()


def read_only(array: Any) -> Any:
    copy = array.copy()
    copy.flags.writeable = False
    return copy


def unaligned(array: Any) -> Any:
    room = np.zeros(array.nbytes + 1, np.uint8)[1:]
    copy = room.view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


DAMAGES: tuple[Callable[[Any, Any], Any], ...] = (
    lambda a, rng: read_only(a),
    lambda a, rng: unaligned(a),
    lambda a, rng: a.astype(np.float64),
    lambda a, rng: a.astype(a.dtype.newbyteorder(">")),
    lambda a, rng: a[::-1],
    lambda a, rng: a[..., None],
    lambda a, rng: a.astype(object),
    lambda a, rng: a.tolist(),
    lambda a, rng: np.repeat(a, 2, axis=0),
    lambda a, rng: a[:0],
    lambda a, rng: a.astype(np.uint64),
    lambda a, rng: a.astype(np.int8),
    lambda a, rng: np.asfortranarray(np.atleast_2d(a)),
    lambda a, rng: a.astype(np.bool_),
)


def damaged(value: Any, rng: Any) -> Any:
    """The value with something wrong with it; any other where it is too plain for that."""
    try:
        return _damaged(value, rng)
    except Exception:
        return odd_value(rng)  # numpy does not make all of these of all arrays


def _damaged(value: Any, rng: Any) -> Any:
    if isinstance(value, np.ndarray) and value.size and rng.random() < 0.8:
        if rng.random() < 0.3 and value.dtype.kind in "iu":
            copy = value.copy()
            limits = np.iinfo(copy.dtype)
            copy.flat[rng.randrange(copy.size)] = rng.choice(
                [v for v in (-1, limits.min, limits.max, 5000, 127, 30) if limits.min <= v <= limits.max]
            )
            return copy
        return rng.choice(DAMAGES)(value, rng)
    if isinstance(value, list | tuple) and len(value) and rng.random() < 0.6:
        copy = list(value)
        change = rng.random()
        if change < 0.4:
            copy[rng.randrange(len(copy))] = odd_value(rng)
        elif change < 0.6:
            copy.append(copy[0])
        elif change < 0.8:
            copy.pop()
        else:
            copy.reverse()
        return tuple(copy) if isinstance(value, tuple) else copy
    if isinstance(value, KVCacheBlocks) and rng.random() < 0.6:
        return KVCacheBlocks(tuple(damaged(list(group), rng) for group in value.blocks))
    if isinstance(value, int) and not isinstance(value, bool) and rng.random() < 0.6:
        return rng.choice([-value, value - 1000, value + 2**31, value + 0.5, -1, value * 10**6])
    return odd_value(rng)
