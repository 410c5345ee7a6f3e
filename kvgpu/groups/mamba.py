"""Mamba and other layers with a recurrent state."""

from typing import Any

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.record import Ids
from kvgpu.config.specs import KVCacheSpec, MambaSpec, cdiv
from kvgpu.groups.base import Blocks, SingleTypeKVCacheManager
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.rules.plan_words import MAMBA
from kvgpu.rules.retention import RESEND_OR_LONGER, Mask, Retention, state_mask_rule, state_to_keep


class MambaManager(SingleTypeKVCacheManager):
    """Manages groups whose blocks each hold the state at their last token; only the newest is needed to go on.

    In mode `align` a request holds null blocks, then the state with which it started the step, then
    the block that it writes and its speculative blocks (facts 37 to 42).
    """

    rule_kind = MAMBA

    def __init__(self, kv_cache_spec: MambaSpec, block_pool: BlockPool, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, block_pool, *args, **kwargs)
        self.num_speculative_blocks = kv_cache_spec.num_speculative_blocks
        self.aligned = kv_cache_spec.mamba_cache_mode == "align"
        self.cached_blocks_this_step: set[BlockHashWithGroupId] = set()
        self.last_state_block_idx: dict[str, int] = {}
        self._allocated: set[str] = set()
        self._retires = block_pool.behaviour.retires_states
        # States cached since the last `take_new_states`; None where nobody takes them.
        self._new_states: list[tuple[str, int, int]] | None = [] if self._retires and self.aligned else None
        # Places of a block table before which all states have been given back.
        self._num_retired: dict[str, int] = {}

    @classmethod
    def mask_of_spec(cls, spec: KVCacheSpec, kept: Retention) -> Mask | None:
        if not kept.thins_states:
            return None
        return state_mask_rule(spec.block_size, kept.alignment, kept.eagle, kept.interval, kept.ends)

    def get_num_blocks_to_allocate(
        self,
        request_id: str,
        num_tokens: int,
        new_computed_blocks: Blocks,
        total_computed_tokens: int,
        num_tokens_main_model: int,
        apply_admission_cap: bool = False,
    ) -> int:
        if self.cached_blocks_this_step and len(new_computed_blocks):
            # The state is being computed in this step: a request that needs it waits for the next step.
            last = int(self._ids(new_computed_blocks)[-1])
            if self.block_pool.state.view(last).block_hash in self.cached_blocks_this_step:
                return self.block_pool.num_gpu_blocks + 1
        if not self.aligned:
            return super().get_num_blocks_to_allocate(
                request_id,
                num_tokens + self.num_speculative_blocks * self.block_size,
                new_computed_blocks,
                total_computed_tokens,
                num_tokens_main_model,
                apply_admission_cap,
            )
        required = cdiv(num_tokens_main_model, self.block_size) + self.num_speculative_blocks
        computed, external = len(new_computed_blocks) + self._num_held(request_id), 0
        if request_id not in self.num_cached_block:
            skipped = self.get_num_skipped_tokens(total_computed_tokens) // self.block_size
            computed = max(computed, skipped)
            external = max(cdiv(total_computed_tokens, self.block_size) - computed, 0)
        at_most = 1 if request_id in self._allocated else 1 + self.num_speculative_blocks
        missing = max(required - computed - external, 0)
        if not external and missing and not self._retires:
            missing = at_most  # as in vLLM 0.23, sometimes more than the request takes
        return external + min(missing, at_most) + self._get_num_evictable_blocks(new_computed_blocks)

    def allocate_new_blocks(self, request_id: str, num_tokens: int, num_tokens_main_model: int) -> BlockList:
        if not self.aligned:
            return super().allocate_new_blocks(
                request_id, num_tokens + self.num_speculative_blocks * self.block_size, num_tokens_main_model
            )
        blocks = self.req_to_blocks[request_id]
        held, spare = len(blocks), self.num_speculative_blocks
        required = cdiv(num_tokens_main_model, self.block_size) + spare
        if required <= held:
            # The number of draft tokens may shrink from step to step.
            if self._retires:
                self._allocated.add(request_id)
            return BlockList(self.block_pool.state)
        running = request_id in self._allocated
        if running:
            self.last_state_block_idx[request_id] = held - 1 - spare
        elif held:
            self.last_state_block_idx[request_id] = held - 1
        write_at = required - spare - 1
        blocks.extend_ids(self._nulls(max(write_at - held, 0)))
        if running:
            # Speculative blocks of the last step move to the end: they hold no state.
            moved = blocks.ids[held - spare : max(min(write_at, held), held - spare)].copy()
            blocks.ids[held - spare : held - spare + len(moved)] = self._null_id
            blocks.extend_ids(moved)
        self._extend(blocks, required - len(blocks))
        self._allocated.add(request_id)
        return blocks[held:]

    def remove_skipped_blocks(self, request_id: str, total_computed_tokens: int) -> None:
        if self.aligned and self._retires:
            confirmed = total_computed_tokens
            self._retire(request_id, self.get_num_skipped_tokens(confirmed) // self.block_size)
        else:
            # Up to this number of tokens may be draft tokens that are rejected later.
            confirmed = total_computed_tokens - (0 if self._retires else self.num_speculative_blocks)
            super().remove_skipped_blocks(request_id, confirmed)
        last_state = self.last_state_block_idx.get(request_id)
        if not self.aligned or last_state is None or last_state >= cdiv(confirmed, self.block_size) - 1:
            return
        blocks = self.req_to_blocks[request_id]
        if blocks.ids[last_state] != self._null_id:
            self._give_back(blocks.ids[last_state : last_state + 1].copy())
            blocks.ids[last_state] = self._null_id
            blocks.changed()

    def _retire(self, request_id: str, end: int) -> None:
        """Give back the states in places before `end`, between which there may be null blocks."""
        blocks = self.req_to_blocks.get(request_id)
        first = self._num_retired.get(request_id, 0)
        if blocks is None or first >= min(end, len(blocks)):
            return
        end = self._num_retired[request_id] = min(end, len(blocks))
        dropped = blocks.ids[first:end].copy()
        blocks.ids[first:end] = self._null_id
        blocks.changed()
        self.block_pool.allocator.give_back_by_hash(dropped[dropped != self._null_id])

    def cache_blocks(self, request: Any, num_tokens: int, retention_interval: int | None = None) -> None:
        if request.request_id not in self.req_to_blocks:
            return
        before = self.num_cached_block.get(request.request_id, 0)
        super().cache_blocks(request, num_tokens, retention_interval)
        if self._retires and self.aligned:
            self._cache_end(request, num_tokens)
        after = self.num_cached_block.get(request.request_id, 0)
        if before >= after:
            return
        state = self.block_pool.state
        for place, block_id in enumerate(self.req_to_blocks[request.request_id].ids[before:after].tolist(), before):
            key = state.key_of(block_id) if block_id != state.null_id else None
            if key is not None:
                self.cached_blocks_this_step.add(key)
                if self._new_states is not None:
                    self._new_states.append((request.request_id, block_id, (place + 1) * self.block_size))

    def _cache_end(self, request: Any, num_tokens: int) -> None:
        """Cache the state at the last position of the prompt that a lookup can hit, whatever else stays cached."""
        pool, num_prompt = self.block_pool, getattr(request, "num_prompt_tokens", None)
        if num_prompt is None or num_tokens % self.block_size:
            return
        drops = self.kept_ends == RESEND_OR_LONGER
        if num_tokens != state_to_keep(num_prompt, pool.hash_block_size, drops, pool.num_hash_lookahead_tokens):
            return
        blocks, place = self.req_to_blocks[request.request_id], num_tokens // self.block_size - 1
        if not 0 <= place < len(blocks) or len(request.block_hashes) * pool.hash_block_size < num_tokens:
            return
        block = blocks[place]
        if block.is_null or block.block_hash is not None:
            return
        pool.cache_full_blocks(request, blocks, place, place + 1, self.block_size, self.kv_cache_group_id)
        key = block.block_hash
        if key is not None:
            self.cached_blocks_this_step.add(key)

    def _forget(self, request_id: str) -> None:
        self._allocated.discard(request_id)
        self.last_state_block_idx.pop(request_id, None)
        self._num_retired.pop(request_id, None)
        if self._new_states:
            self._new_states = [each for each in self._new_states if each[0] != request_id]

    def take_new_states(self) -> list[tuple[str, int, int]]:
        taken = self._new_states or []
        if taken:
            self._new_states = []
        return taken

    def pop(self, request_id: str) -> Ids:
        self._forget(request_id)
        return super().pop(request_id)

    def free(self, request_id: str) -> None:
        self._forget(request_id)
        super().free(request_id)

    def new_step_starts(self) -> None:
        self.cached_blocks_this_step.clear()
