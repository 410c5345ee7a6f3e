"""Blocks that rows fill: which of them can be hashed without the request object, and their hashes."""

from itertools import compress
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.inputs.extra_keys import need_extra_keys
from kvgpu.hashing.inputs.token_arrays import Tokens, token_array
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.request import Request


def unhashed_tail(request: Any, num_tokens: int, num_hashes: int, block_size: int) -> Tokens | None:
    """Tokens of a request behind its last hash, int32 or int64 [< block_size].

    None if tokens are not all that its next hashes follow from, or if it is not what its row knows, so many
    tokens and hashes.
    """
    hasher = getattr(request, "block_hasher", None)
    if not (
        isinstance(request, Request)
        and type(hasher) is RequestBlockHasher
        and hasher.block_size == block_size
        and isinstance(request.block_hashes, BlockHashes)
        and not need_extra_keys(request)
        and request.num_tokens == num_tokens
        and len(request.block_hashes) == num_hashes == num_tokens // block_size
    ):
        return None
    held, first = request.all_token_ids, num_hashes * block_size
    return held.part(first, num_tokens) if isinstance(held, TokenIds) else token_array(held[first:])


class RowHashesMade(NamedTuple):
    """Hashes of blocks that rows have filled. rows: int64 [n]; counts: int64 [n], of each; hashes: row by row."""

    rows: RowIds
    counts: npt.NDArray[np.int64]
    hashes: BlockHashes


def hashes_of_full_blocks(rows: RequestRows, pending: PendingTokens, full: RowIds) -> list[RowHashesMade]:
    """Hash the full blocks of rows, at least one each, that have no hash: one call for each hasher.

    Raises:
        ArgumentError: Hashes of other widths than 16 and 32 bytes.

    Nothing is changed. O(tokens).
    """
    counts, tokens = pending.full_blocks(rows.records, full)
    parents = rows.last_hashes(full)
    hashers = [rows.requests[row].block_hasher for row in full.tolist()]
    distinct = dict.fromkeys(hashers)
    if len(distinct) == 1:
        hashes = hashers[0].chained(tokens, counts.tolist(), parents, True)
        return [RowHashesMade(full, counts, hashes)]
    made = []
    for hasher in distinct:
        chosen = np.array([each is hasher for each in hashers])
        numbers, heads = counts[chosen], list(compress(parents, chosen.tolist()))
        hashes = hasher.chained(tokens[chosen], numbers.tolist(), heads, True)
        made.append(RowHashesMade(full[chosen], numbers, hashes))
    return made


def hash_full_blocks(rows: RequestRows, pending: PendingTokens, full: RowIds) -> None:
    """Hash the full blocks of rows, at least one each, that have no hash, and append the hashes.

    Raises:
        ArgumentError: Hashes of another width than those there are. Nothing is changed then, nor when a hash function
            raises an error of its own.

    O(tokens).
    """
    made = hashes_of_full_blocks(rows, pending, full)
    append_made(rows, made, rows.common_width([each.hashes for each in made]))


def append_made(rows: RequestRows, made: list[RowHashesMade], width: int) -> None:
    """Append hashes, all of so many bytes, to their rows; they are known to fit. O(hashes)."""
    rows.width = width
    rows.linked = rows.linked and all(each.hashes.linked for each in made)
    for each in made:
        rows.append_hashes(each.rows, each.counts, each.hashes.keys, ahead=True)
