"""Blocks that rows fill: which of them can be hashed without the request object, and their hashes."""

from itertools import compress
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.batch.rows.pending_tokens import PendingTokens
from kvgpu.batch.rows.record import RowIds
from kvgpu.batch.rows.requests import RequestRows
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.hashing.capabilities import chains_of
from kvgpu.hashing.inputs.extra_keys import need_extra_keys
from kvgpu.hashing.inputs.token_arrays import Tokens, token_array
from kvgpu.hashing.inputs.token_ids import TokenIds
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.hashing.serialised.chains import Sha256Chains
from kvgpu.hashing.serialised.libcrypto import DIGEST_BYTES
from kvgpu.hashing.serialised.messages import MAX_FRAME_BYTES, OVERHEAD_BYTES, longest_message
from kvgpu.request import Request


def unhashed_tail(rows: RequestRows, row: int, block_size: int) -> Tokens | None:
    """Return the tokens of a row's request after its last full block, int32 or int64 [< block_size].

    None if the next hashes depend on more than the tokens, or if the request does not have the tokens and hashes that
    its row knows of. O(block_size).
    """
    record, request = rows.records[row], rows.requests[row]
    num_tokens, num_hashes = int(record["num_tokens"]), int(record["end"] - record["begin"])
    hasher = getattr(request, "block_hasher", None)
    if not (
        isinstance(request, Request)
        and type(hasher) is RequestBlockHasher
        and hasher.block_size == block_size
        and not hasher.num_hash_lookahead_tokens
        and isinstance(request.block_hashes, BlockHashes)
        and not need_extra_keys(request)
        and request.num_tokens == num_tokens
        and len(request.block_hashes) == num_hashes == num_tokens // block_size
    ):
        return None
    tokens, first = request.all_token_ids, num_hashes * block_size
    return tokens.part(first, num_tokens) if isinstance(tokens, TokenIds) else token_array(tokens[first:])


def kind_of_hasher(rows: RequestRows, row: int) -> int:
    """Return how a row that an `unhashed_tail` was found for is hashed; see `PendingTokens.kinds`. O(1)."""
    hasher = rows.requests[row].block_hasher
    chains = chains_of(hasher.hash_fn)
    short = longest_message(DIGEST_BYTES, hasher.block_size, OVERHEAD_BYTES) <= MAX_FRAME_BYTES
    same = rows.hashes.width in (0, DIGEST_BYTES)
    return chains.kind + 1 if isinstance(chains, Sha256Chains) and short and same else 0


def lookahead_of(rows: RequestRows, row: int) -> int:
    """Return how many tokens after a block the request of a row hashes with it. O(1)."""
    hasher = getattr(rows.requests[row], "block_hasher", None)
    return hasher.num_hash_lookahead_tokens if isinstance(hasher, RequestBlockHasher) else 0


class FullBlockHashes(NamedTuple):
    """Hashes of blocks that rows have filled, made by one hasher."""

    rows: RowIds
    counts: npt.NDArray[np.int64]
    """int64 [n], hashes of each row."""
    hashes: BlockHashes
    """Row by row."""


def hashes_of_full_blocks(rows: RequestRows, pending: PendingTokens, full: RowIds) -> list[FullBlockHashes]:
    """Hash the blocks without a hash that the rows `full` have filled, at least one each, in one call per hasher.

    Raises:
        ArgumentError: The hashes are not 16 or 32 bytes long.

    Changes nothing. O(tokens).
    """
    counts, tokens = pending.full_blocks(rows.records, full)
    parents = rows.hashes.last(full)
    hashers = [rows.requests[row].block_hasher for row in full.tolist()]
    distinct = dict.fromkeys(hashers)
    if len(distinct) == 1:
        hashes = hashers[0].chained(tokens, counts.tolist(), parents, True)
        return [FullBlockHashes(full, counts, hashes)]
    made = []
    for hasher in distinct:
        chosen = np.array([each is hasher for each in hashers])
        chosen_counts, chosen_parents = counts[chosen], list(compress(parents, chosen.tolist()))
        hashes = hasher.chained(tokens[chosen], chosen_counts.tolist(), chosen_parents, True)
        made.append(FullBlockHashes(full[chosen], chosen_counts, hashes))
    return made


def hash_full_blocks(rows: RequestRows, pending: PendingTokens, full: RowIds) -> None:
    """Hash the blocks without a hash that the rows `full` have filled, at least one each, and append the hashes.

    Raises:
        ArgumentError: The hashes have another width than those of other rows. Nothing is changed, and nothing when a
            hash function raises an error of its own.

    O(tokens).
    """
    made = hashes_of_full_blocks(rows, pending, full)
    append_made(rows, made, rows.hashes.common_width([each.hashes for each in made]))


def append_made(rows: RequestRows, made: list[FullBlockHashes], width: int) -> None:
    """Append hashes of `width` bytes, which are known to fit, to their rows. O(hashes)."""
    rows.hashes.width = width
    rows.hashes.linked = rows.hashes.linked and all(each.hashes.linked for each in made)
    for each in made:
        rows.hashes.append(each.rows, each.counts, each.hashes.keys, ahead=True)
