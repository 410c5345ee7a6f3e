from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks

LAYOUT: dict[str, tuple[int, ...]]
"""Numbers that the extension and Python's modules must agree on, by what they are about."""

CHAIN_LAYOUT: tuple[int, ...]
"""The same for `kvgpu.hashing.one_chain`."""

def block_ids(blocks: Any, /) -> tuple[list[int], ...]:
    """Return the ids of the blocks in each list of a tuple; NotImplemented unless all lists are kvgpu's own."""

def read_ints(objects: list[Any], name: str, out: npt.NDArray[np.int64], /) -> None:
    """Write an int attribute of each object into an array, int64 [>= len(objects)].

    Raises:
        TypeError, AttributeError: It is not an int of 64 bits everywhere, or not there.
    """

def read_lengths(lists: list[list[Any]], out: npt.NDArray[np.int64], /) -> None:
    """Write the length of each list into an array, int64 [>= len(lists)]; raises a TypeError if an item is no list."""

def add_to_ints(objects: list[Any], name: str, step: int, /) -> None:
    """Add to an int attribute of each object; raises what `+` and setting it raise."""

def hash_blocks(prepared: tuple[Any, ...], tokens: Any, first: int, count: int, parent: Any, /) -> list[bytes]:
    """Return the hashes of blocks of a list of tokens; NotImplemented if tokens or parent are not usual ones.

    Args:
        prepared: What `prepare_chain` returned.
        tokens: A list.
        first: Place of the first token of the first block.
        count: Number of blocks; behind the last one there must be the tokens for its look-ahead.
        parent: Hash of the block before the first.
    """

def append_tokens(usual: tuple[Any, ...], rows: Any, tokens: Any, /) -> bool:
    """Append tokens[i] to rows[i] and return True; return False, with nothing changed, if the call is not a usual one.

    Args:
        usual: `UsualRows.prepared`.
    """

def cover_rows(
    usual: tuple[Any, ...],
    rows: Any,
    num_new_tokens: Any,
    num_lookahead_tokens: Any,
    reserved_blocks: Any,
    delay_cache_blocks: Any,
    full_sequence_must_fit: Any,
    stop_when_full: Any,
    /,
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.int64], npt.NDArray[np.int64], int] | None:
    """Give each row its slots, if all stay inside their blocks; else return None, with nothing changed.

    Args:
        usual: `UsualRows.prepared`.

    Returns:
        `fits`, `num_hit_tokens`, `num_new_tokens` and `num_tried` of a `BatchAllocation`.
    """

class Calls:
    """Calls of a `KVCacheManager`, served by compiled code without Python around it.

    Each method may also return NotImplemented, with nothing changed, if the call is not a usual one: Python then serves
    it, or says what is wrong with it. A call runs no code of Python's once it has read its request, so that no other
    thread comes in between; while one is inside the manager, it is left to Python, which refuses it.
    """

    def __new__(
        cls,
        *,
        turn: object,
        state: object,
        extras: dict[Any, Any],
        foreign: list[Any],
        events: object,
        store: object,
        index: object,
        allocator: object,
        lookups: object,
        empty: object,
        no_ids: object,
        refuse: Callable[[], None],
        request_blocks: type,
        block_list: type,
        cache_blocks: type,
        allocate: Callable[[], int],
        free: Callable[[], int],
        match: Callable[[], int],
        shared: Callable[[], int],
        slots: int,
        question: int,
        room_for_hits: int,
        max_model_len: int,
        hash_block_size: int,
        reach: int,
        caching: bool,
        clamps: bool,
        masks: bool,
        reports: bool,
        num_queries: int,
        groups: tuple[tuple[dict[Any, Any], object, bool, int, int], ...],
        last_hand_out: int,
        owners: object,
    ) -> Calls: ...
    def allocate_slots(self, request: Any, given: tuple[Any, ...], /) -> KVCacheBlocks | None: ...
    def cache_blocks(self, request: Any, num_computed_tokens: Any, /) -> Any: ...
    def free(self, request: Any, /) -> Any: ...
    def get_computed_blocks(self, request: Any, /) -> tuple[KVCacheBlocks, int]: ...
    def get_block_ids(self, request_id: Any, /) -> tuple[list[int], ...]: ...
    def get_num_common_prefix_blocks(self, request_id: Any, /) -> list[int]: ...
