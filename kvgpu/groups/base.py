"""What all cache groups have in common: which blocks each request needs and gets; and what `HeldBlocks` does."""

from collections.abc import Sequence

import numpy as np

from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.lru import count_unused
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.config.specs import cdiv
from kvgpu.errors import ArgumentError, RunningRequestError
from kvgpu.groups.held_blocks import HeldBlocks
from kvgpu.rules import allocation as rules

Blocks = Sequence[KVCacheBlock] | Ids

_blocks_missing = python_of(rules.blocks_missing)


class SingleTypeKVCacheManager(HeldBlocks):
    """Manages the blocks of all requests in one cache group; arguments are those of `HeldBlocks`."""

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Blocks,
        total_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
        *,
        num_local_computed_tokens: int = 0,
        prefill_end: int = 0,
    ) -> int:
        """Return how many blocks must be free in the pool so that the request gets its slots (fact 22).

        Args:
            request_id: The request.
            num_tokens: Tokens that need slots, including lookahead.
            new_computed_blocks: Hits of a request that is not running yet. Unused ones count,
                because they would leave the free queue.
            total_computed_tokens: Tokens computed here or elsewhere.
            num_tokens_main_model: `num_tokens` without lookahead.
            apply_admission_cap: Count at most `max_admission_blocks_per_request` blocks.
            num_local_computed_tokens: Tokens in the hits; the request gets a copy of a block that they end inside.
            prefill_end: Tokens after which a prompt is computed, or 0 if every step may keep a state from inside it.

        Raises:
            RunningRequestError: Hits were passed for a running request.
        """
        required = cdiv(num_tokens, self.block_size)
        if apply_admission_cap and self.max_admission_blocks_per_request is not None:
            required = min(required, self.max_admission_blocks_per_request)
        held = self._num_held(request_id)
        running = request_id in self.num_cached_block
        if running:
            self._refuse_computed(request_id, new_computed_blocks)
        skipped = self.get_num_skipped_tokens(total_computed_tokens) // self.block_size
        num_computed = len(new_computed_blocks)
        new = _blocks_missing(required, held, running, skipped, num_computed)
        if num_computed == 0:
            return new
        new += self.ends_inside_block(new_computed_blocks, num_local_computed_tokens)
        return new + self._get_num_evictable_blocks(new_computed_blocks, max(0, skipped - held))

    def allocate_new_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Blocks,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> None:
        """Give a request its hits, and blocks for tokens that were computed elsewhere (fact 23).

        Does nothing for a running request.
        """
        num_blocks = self.take_computed_blocks(
            request_id, new_computed_blocks, num_local_computed_tokens, num_external_computed_tokens
        )
        self.allocate_external_blocks(request_id, num_blocks)

    def take_computed_blocks(
        self,
        request_id: str,
        new_computed_blocks: Blocks,
        num_local_computed_tokens: int,
        num_external_computed_tokens: int,
    ) -> int:
        """Give a request its hits; return how many blocks it needs for the hits and for tokens computed elsewhere.

        Returns 0 if the request is running or if no token was computed elsewhere.
        """
        if request_id in self.num_cached_block:
            self._refuse_computed(request_id, new_computed_blocks)
            return 0
        ids = self._ids(new_computed_blocks)
        if not self.enable_caching and len(ids):
            raise ArgumentError(f"request {request_id}: computed blocks without prefix caching")
        blocks = self.req_to_blocks[request_id]
        total = num_local_computed_tokens + num_external_computed_tokens
        skipped_tokens = self.get_num_skipped_tokens(total)
        skipped = skipped_tokens // self.block_size
        if skipped > 0:
            ids = ids[skipped:]
            num_external_computed_tokens = min(total - skipped_tokens, num_external_computed_tokens)
            blocks.extend_ids(self._nulls(skipped))
        self.block_pool.allocator.take_hits(ids)
        blocks.extend_ids(ids)
        self.num_cached_block[request_id] = len(blocks)
        if self.ends_inside_block(ids, num_local_computed_tokens):
            place = num_local_computed_tokens // self.block_size
            self.partial_hits.tails[request_id] = self.num_cached_block[request_id] = place
        return cdiv(total, self.block_size) if num_external_computed_tokens > 0 else 0

    def allocate_external_blocks(self, request_id: str, num_blocks: int, zeroed: bool = True) -> None:
        """Give a request new blocks until it has `num_blocks`; 0 means that it needs none.

        An engine that zeroes new blocks is told of them if `zeroed`.
        """
        if num_blocks:
            blocks = self.req_to_blocks[request_id]
            self._extend(blocks, num_blocks - len(blocks), zeroed)

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> BlockList:
        """Give a request blocks until it has slots for `num_tokens` tokens; return the new blocks."""
        blocks = self.req_to_blocks[request_id]
        copies = NO_IDS
        if request_id in self.partial_hits.tails:
            copies = self.block_pool.allocator.take(1)
            self.partial_hits.redirect(blocks, self.partial_hits.tails.pop(request_id), int(copies[0]))
            self.new_ids.note(copies)
        missing = cdiv(num_tokens, self.block_size) - len(blocks)
        new = self._extend(blocks, missing)
        return BlockList(self.block_pool.state, np.concatenate([copies, new]) if len(copies) else new)

    def _refuse_computed(self, request_id: str, new_computed_blocks: Blocks) -> None:
        if len(new_computed_blocks):
            raise RunningRequestError(
                f"request {request_id} is running: it cannot take {len(new_computed_blocks)} "
                "computed blocks; free it first"
            )

    def _get_num_evictable_blocks(self, blocks: Blocks, start: int = 0) -> int:
        """Count the unused blocks from index `start` on."""
        ids = self._ids(blocks)[start:]
        if self.block_pool.state.foreign:
            return sum(block.ref_cnt == 0 and not block.is_null for block in BlockList(self.block_pool.state, ids))
        return int(count_unused(self.block_pool.state.free.uses, ids, self._null_id))

    def _extend(self, blocks: RequestBlocks, count: int, zeroed: bool = True) -> Ids:
        """Append `count` new blocks from the pool; return their ids."""
        ids = self.block_pool.allocator.take(count)
        if len(ids):
            blocks.extend_ids(ids)
            if self.records_new_blocks and zeroed:
                self.new_ids.note(ids)
        return ids
