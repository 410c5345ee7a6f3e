"""Arguments of calls, checked before anything is changed: numbers, names, blocks and arrays.

Compiled code does not check what it is given: a negative index, a number beyond its type or an array of another kind
would be read and written nevertheless. All that comes from outside is checked here first, in O(1) or one pass of
compiled code.
"""

from collections.abc import Iterable, Sequence
from operator import index
from typing import Any, TypeGuard

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import Ids
from kvgpu.blocks.state import BlockState, KVCacheBlock
from kvgpu.errors import ArgumentError, ArgumentTypeError, BlockIdError
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.block_range import BlockRange
from kvgpu.integers import MOST_TOKENS, as_integer, shown

_INT64 = np.dtype(np.int64)


def name_of(request: Any) -> Any:
    """Return the `request_id` of a request, checked to be usable as a key. O(1).

    Raises:
        ArgumentTypeError: The request has no `request_id`, or one that cannot be a key.
    """
    try:
        return checked_name(request.request_id)
    except AttributeError:
        raise ArgumentTypeError(f"a request with a request_id is expected, got {type(request).__name__}") from None


def checked_name(request_id: Any) -> Any:
    """Return a request id, checked to be usable as a key. O(1).

    Raises:
        ArgumentTypeError: The id cannot be a key.
    """
    if request_id.__class__ is not str:
        try:
            hash(request_id)
        except TypeError:
            raise ArgumentTypeError(f"a request_id must be a string, got {type(request_id).__name__}") from None
    return request_id


def is_plain(array: Any) -> TypeGuard[npt.NDArray[np.int64]]:
    """Whether compiled code can read an array as it is, as int64 [n]. O(1)."""
    return array.__class__ is np.ndarray and array.dtype is _INT64 and array.ndim == 1 and array.flags.carray


def integers(name: str, values: Any, count: int | None = None, *, one_for_all: bool = False) -> npt.NDArray[np.int64]:
    """Return integers as int64 [n], an array that compiled code can use: contiguous, aligned and writeable. O(n).

    Args:
        name: Name of the argument, for the message.
        values: A sequence, or an array of any integer dtype.
        count: n; None for any.
        one_for_all: Accept also a single integer, which becomes [1].

    Raises:
        ArgumentTypeError: The values are not integers, or have another shape.
        ArgumentError: An integer does not fit into 64 bits.
    """
    try:
        given = np.asarray(values)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name}: integers are expected, got {shown(values)}") from None
    if given.ndim == 1 and given.size == 0:
        given = given.astype(np.int64)
    wanted = "n" if count is None else count
    fits = given.ndim == 1 and count in (None, len(given))
    if one_for_all and given.shape in ((), (1,)):
        given, fits = given.reshape(1), True
    if given.dtype.kind not in "iu" or not fits:
        raise ArgumentTypeError(f"{name}: integers [{wanted}] are expected, got {given.dtype} {list(given.shape)}")
    if given.dtype == np.uint64 and given.size and given.max() >= 1 << 63:
        raise ArgumentError(f"{name}: integers below 2**63 are expected, got {given.max()}")
    made: npt.NDArray[np.int64] = ready(given, np.int64)
    return made


def numbers(name: str, values: Any, count: int | None = None) -> npt.NDArray[np.float64]:
    """Return numbers as float64 [n]; n is `count`, or any if that is None. O(n).

    Raises:
        ArgumentTypeError: The values are not numbers, or have another shape.
    """
    try:
        given = np.asarray(values, np.float64)
    except (TypeError, ValueError, OverflowError):
        raise ArgumentTypeError(f"{name}: numbers are expected, got {shown(values)}") from None
    if given.ndim != 1 or count not in (None, len(given)):
        raise ArgumentTypeError(
            f"{name}: numbers [{'n' if count is None else count}] are expected, got {list(given.shape)}"
        )
    return given


def sequence_of_hashes(request_id: Any, hashes: Any) -> Any:
    """Return the block hashes of a request, checked to be a list, `BlockHashes` or another sequence. O(1).

    Raises:
        ArgumentTypeError: The hashes are anything else.
    """
    if hashes.__class__ in (BlockHashes, list):  # to check for `Sequence` takes long
        return hashes
    if not isinstance(hashes, Sequence) or isinstance(hashes, str | bytes):
        raise ArgumentTypeError(f"request {request_id}: block_hashes must be a sequence of bytes, got {shown(hashes)}")
    return hashes


def hashes_of(request: Any, request_id: Any, needed: int) -> Any:
    """Return the block hashes of a request, checked to be at least `needed`. O(1).

    Raises:
        ArgumentError: The request has fewer.
        ArgumentTypeError: The request has no sequence of hashes.
    """
    hashes = sequence_of_hashes(request_id, getattr(request, "block_hashes", None))
    if len(hashes) < needed:
        raise ArgumentError(
            f"request {request_id} has {len(hashes)} block hashes, but {needed} are needed; give it a block_hasher"
        )
    return hashes


def refuse_odd_hashes(request_id: Any, hashes: Iterable[Any]) -> None:
    """Check that all block hashes of a request are bytes, each of at least one. O(hashes).

    Raises:
        ArgumentTypeError: A hash is empty or not bytes.
    """
    for each in hashes:
        if not isinstance(each, bytes) or not each:
            raise ArgumentTypeError(f"request {request_id}: block hashes must be bytes, got {shown(each)} among them")


def truths(name: str, values: Any, count: int | None = None) -> npt.NDArray[np.bool_]:
    """Return truth values as bool [count], or [] for one that holds for all; [n] if no count is given. O(n).

    Raises:
        ArgumentTypeError: The values are not truth values, or have another shape.
    """
    try:
        given = np.asarray(values, np.bool_)
    except (TypeError, ValueError):
        raise ArgumentTypeError(f"{name}: truth values are expected, got {shown(values)}") from None
    fits = given.ndim == 1 if count is None else given.shape in ((), (count,))
    if not fits:
        wanted = "n" if count is None else count
        raise ArgumentTypeError(f"{name}: truth values [{wanted}] are expected, got {list(given.shape)}")
    return given


def ready(array: npt.NDArray[Any], dtype: Any) -> Any:
    """Return an array of this dtype as compiled code expects it: contiguous, aligned, writeable; the same if possible.

    Any other array would have another type in compiled code, and every function that takes it would be compiled anew
    in the middle of serving. O(1), or O(n) if the array is copied.
    """
    if array.dtype == dtype and array.flags.carray:
        return array
    return np.array(array, dtype, order="C")


def block_ids(ids: Any, num_blocks: int) -> Ids:
    """Return the ids of blocks of a pool as int32 [n]. O(n).

    Raises:
        ArgumentTypeError: The ids are not integers [n].
        BlockIdError: An id is outside the pool.
    """
    given = integers("block ids", ids)
    if given.size:
        outside = (given < 0) | (given >= num_blocks)
        if outside.any():
            raise outside_pool(int(given[outside][0]), num_blocks)
    return given.astype(np.int32)


def outside_pool(block_id: int, num_blocks: int) -> BlockIdError:
    """Make the error for an id that no block of a pool has."""
    return BlockIdError(f"block id {block_id} is outside the pool of {num_blocks} blocks")


def own_blocks(state: BlockState, blocks: Iterable[KVCacheBlock] | Ids) -> Ids:
    """Return the ids of blocks (or ids) as int32 [n], checked to be all of this pool. O(n).

    Raises:
        ArgumentTypeError: The arguments are not blocks.
        ArgumentError: A block belongs to another pool, or was made by hand.
        BlockIdError: An id is outside the pool.
    """
    if isinstance(blocks, BlockList) and blocks.state is state:
        return block_ids(blocks.ids, state.num_blocks)
    if isinstance(blocks, np.ndarray):
        return block_ids(blocks, state.num_blocks)
    try:
        listed = list(blocks)
    except TypeError:
        raise ArgumentTypeError(f"blocks are expected, got {shown(blocks)}") from None
    ids = np.empty(len(listed), np.int32)
    for place, block in enumerate(listed):
        if not isinstance(block, KVCacheBlock):
            raise ArgumentTypeError(f"blocks are expected, got {shown(block)} among them")
        if block._state is not state:
            raise ArgumentError(
                f"block {block.block_id} belongs to another pool, or was made by hand: "
                "only blocks that this pool has handed out can be used"
            )
        ids[place] = block._row
    return block_ids(ids, state.num_blocks)


def ids_to_cache(state: BlockState, blocks: Any, new: BlockRange) -> Ids:
    """Return the ids of those blocks of a request that lie in a range, as int32 [at most the range]. O(range).

    Blocks made by hand have negative ids (see `BlockState.id_of`).

    Raises:
        ArgumentTypeError: These are not a sequence of blocks.
        BlockIdError: A block has an id outside the pool.
    """
    if isinstance(blocks, BlockList) and blocks.state is state:
        return blocks.ids[new.first : new.end]
    try:
        listed = list(blocks[new.first : new.end])
    except (LookupError, TypeError, ValueError) as error:
        raise ArgumentTypeError(f"a sequence of blocks is expected: {error}") from None
    for block in listed:
        if not isinstance(block, KVCacheBlock):
            raise ArgumentTypeError(f"blocks are expected, got {shown(block)} among them")
        if not 0 <= block.block_id < state.num_blocks:
            raise outside_pool(block.block_id, state.num_blocks)
    return state.ids_of(listed)


def listed_ids(block_ids: Iterable[int], num_blocks: int) -> list[int]:
    """Return the ids of blocks of a pool as plain ints. O(n).

    Raises:
        ArgumentTypeError: The ids are not integers.
        BlockIdError: An id is outside the pool.
    """
    try:
        listed: Sequence[int] = [index(block_id) for block_id in block_ids]
    except TypeError:
        raise ArgumentTypeError(f"block ids: integers are expected, got {shown(block_ids)}") from None
    for block_id in listed:
        if not 0 <= block_id < num_blocks:
            raise outside_pool(block_id, num_blocks)
    return list(listed)


def junction_of(request: Any) -> int:
    """Return up to where some groups had cached a longer prefix of a request, in tokens; 0 if none had (B62). O(1).

    Raises:
        ArgumentError, ArgumentTypeError: The request says it in something else than a number of 0 or more.
    """
    junction = getattr(request, "shared_prefix_boundary", 0)
    return 0 if junction is None else as_integer("shared_prefix_boundary", junction, 0, MOST_TOKENS)
