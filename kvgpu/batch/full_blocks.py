"""Blocks that rows fill: which of them can be hashed without the request object, and their hashes."""

from itertools import compress
from typing import Any

import numpy as np

from kvgpu.batch.pending import PendingTokens
from kvgpu.batch.row_record import RowIds
from kvgpu.batch.rows import RequestRows
from kvgpu.block_hashes import BlockHashes
from kvgpu.block_hashing.hasher import RequestBlockHasher
from kvgpu.extra_keys import need_extra_keys
from kvgpu.request import Request
from kvgpu.token_ids import TokenIds, Tokens, token_array


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


def hash_full_blocks(rows: RequestRows, pending: PendingTokens, full: RowIds) -> None:
    """Hash the full blocks of rows, at least one each, that have no hash: one call for each hasher.

    Raises:
        ArgumentError: Hashes of another width than those there are. No hash is appended to any row then, nor when a
            hash function raises an error of its own.

    O(tokens).
    """
    counts, tokens = pending.full_blocks(rows.records, full)
    parents = rows.last_hashes(full)
    hashers = [rows.requests[row].block_hasher for row in full.tolist()]
    distinct = dict.fromkeys(hashers)
    if len(distinct) == 1:
        made = [(full, counts, hashers[0].chained(tokens, counts.tolist(), parents))]
    else:
        made = []
        for hasher in distinct:
            chosen = np.array([each is hasher for each in hashers])
            numbers, heads = counts[chosen], list(compress(parents, chosen.tolist()))
            hashes = hasher.chained(tokens[chosen], numbers.tolist(), heads)
            made.append((full[chosen], numbers, hashes))
    rows.width = rows.common_width([hashes for _, _, hashes in made])
    rows.linked = rows.linked and all(hashes.linked for _, _, hashes in made)
    for mine, numbers, hashes in made:
        rows.append_hashes(mine, numbers, hashes.rows, ahead=True)
