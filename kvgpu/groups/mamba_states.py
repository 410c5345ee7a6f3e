"""`MambaStates`: which states of recurrent layers stay cached."""

from typing import Any

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.record import Ids
from kvgpu.config.specs import KVCacheSpec, MambaSpec, cdiv
from kvgpu.groups.base import SingleTypeKVCacheManager
from kvgpu.hashing.map_keys import BlockHashWithGroupId
from kvgpu.rules.plan_words import MAMBA
from kvgpu.rules.retention import (
    RESEND_OR_LONGER,
    Mask,
    Retention,
    can_keep_inside,
    masked,
    state_mask_rule,
    state_to_keep,
)


class MambaStates(SingleTypeKVCacheManager):
    """The part of the manager of recurrent layers that caches states; arguments are those of `HeldBlocks`.

    A state is found under the hash of all tokens before it. It may lie in a block that is not full, where the request
    overwrites it in its next step, unless a copy is made (B85).

    Attributes:
        shared_prefix_checkpoint: Whether the state at a junction stays cached also inside a block.
        cached_blocks_this_step: Keys of states that this step computes.
    """

    rule_kind = MAMBA
    ends_inside = True

    def __init__(self, kv_cache_spec: MambaSpec, block_pool: BlockPool, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, block_pool, *args, **kwargs)
        self.num_speculative_blocks = kv_cache_spec.num_speculative_blocks
        self.aligned = kv_cache_spec.mamba_cache_mode == "align"
        self.shared_prefix_checkpoint = False
        self.cached_blocks_this_step: set[BlockHashWithGroupId] = set()
        self._retires = block_pool.behaviour.retires_states
        keeps = self.aligned and block_pool.behaviour.keeps_inside and kv_cache_spec.num_prefill_checkpoint_blocks > 0
        # Tokens between the positions inside a step whose states an engine has; None if it has none.
        self._inside_every = kv_cache_spec.prefill_checkpoint_alignment if keeps else None
        # States cached since the last `take_new_states`; None where nobody takes them.
        self._new_states: list[tuple[str, int, int]] | None = [] if self._retires and self.aligned else None
        # By request, a state from inside this step: its position in tokens, and the place of its block; the first is
        # for a step that has no blocks yet.
        self._planned: dict[str, tuple[int, int]] = {}
        self._checkpoints: dict[str, tuple[int, int]] = {}
        # By request, the last state of its prompt that it cached inside a block: the block, and its position.
        self._last_states: dict[str, tuple[int, int]] = {}

    @classmethod
    def mask_of_spec(cls, spec: KVCacheSpec, kept: Retention) -> Mask | None:
        if not kept.thins_states:
            return None
        return state_mask_rule(spec.block_size, kept.alignment, kept.eagle, kept.interval, kept.ends)

    def cache_blocks(self, request: Any, num_tokens: int, retention_interval: int | None = None) -> None:
        request_id = request.request_id
        if request_id not in self.req_to_blocks:
            return
        before = self.num_cached_block.get(request_id, 0)
        super().cache_blocks(request, num_tokens, retention_interval)
        after = self.num_cached_block.get(request_id, 0)
        if self._retires and self.aligned:
            key = self._cache_last_state(request, num_tokens, retention_interval)
            if key is not None:
                self.cached_blocks_this_step.add(key)
        if before >= after:
            return
        state = self.block_pool.state
        for place, block_id in enumerate(self.req_to_blocks[request_id].ids[before:after].tolist(), before):
            key = state.key_of(block_id) if block_id != state.null_id else None
            if key is not None:
                self.cached_blocks_this_step.add(key)
                if self._new_states is not None:
                    self._new_states.append((request_id, block_id, self.covered(block_id, place)))

    def position_to_keep(self, num_tokens: int, unit: int) -> int:
        """Return the last position of so many tokens at which a state can be hit, a multiple of `unit` (B86). O(1)."""
        drops = self.kept_ends == RESEND_OR_LONGER
        return state_to_keep(num_tokens, unit, drops, self.block_pool.num_hash_lookahead_tokens)

    def plan_checkpoint(self, request_id: str, start: int, end: int, prefill_end: int) -> tuple[int, int] | None:
        """Return the position of the state that a step from `start` to `end` keeps from inside it, and the place of
        its block (B87); None if it keeps none. O(1).

        Args:
            request_id: The request.
            start, end: Computed tokens of the request before and after the step.
            prefill_end: Only the step that reaches this number of tokens keeps one.
        """
        if self._inside_every is None or end < prefill_end:
            return None
        position = self.position_to_keep(end, self.cache_hit_alignment_tokens)
        place = cdiv(end, self.block_size) - 2
        unit = self.block_pool.hash_block_size
        if not can_keep_inside(start, end, position, unit, self.block_size, self._inside_every):
            return None
        held = self._num_held(request_id)
        is_free = place >= held or self.req_to_blocks[request_id].ids[place] == self._null_id
        return (position, place) if is_free or self._is_scratch(request_id, place) else None

    def _is_scratch(self, request_id: str, place: int) -> bool:
        """Whether a block of a running request holds nothing that is still needed."""
        return False

    def _cache_last_state(
        self, request: Any, num_tokens: int, retention_interval: int | None
    ) -> BlockHashWithGroupId | None:
        """Cache the state at the last position of the prompt that a lookup can hit, or at the junction, whatever else
        stays cached; return its key if it was not cached before."""
        pool, request_id = self.block_pool, request.request_id
        num_prompt = getattr(request, "num_prompt_tokens", None)
        if num_prompt is None:
            return None
        if request_id in self._checkpoints:
            return self._cache_checkpoint(request, num_prompt, retention_interval)
        if num_tokens <= 0 or num_tokens % pool.hash_block_size:
            return None
        at_junction = (
            self.shared_prefix_checkpoint
            and num_tokens == getattr(request, "shared_prefix_boundary", 0)
            and request.num_computed_tokens < num_tokens <= num_prompt
        )
        if num_tokens != self.position_to_keep(num_prompt, pool.hash_block_size) and not at_junction:
            return None
        blocks, place = self.req_to_blocks[request_id], cdiv(num_tokens, self.block_size) - 1
        if place >= len(blocks) or len(request.block_hashes) * pool.hash_block_size < num_tokens:
            return None
        block = blocks[place]
        if block.is_null or self.covered(block.block_id, place) == num_tokens:
            return None
        key = pool.cache_partial_block(request, block, num_tokens, self.kv_cache_group_id, self.block_size)
        if key is not None and num_tokens % self.block_size:
            self.partial_hits.tails[request_id] = place
            self.num_cached_block[request_id] = place
            self._last_states[request_id] = (block.block_id, num_tokens)
        return key

    def _cache_checkpoint(
        self, request: Any, num_prompt: int, retention_interval: int | None
    ) -> BlockHashWithGroupId | None:
        """Cache the state from inside this step under its own position, or forget its block, which was cached as full,
        if no lookup can hit that position."""
        position, place = self._checkpoints[request.request_id]
        block = self.req_to_blocks[request.request_id][place]
        is_kept = position in (
            self.position_to_keep(num_prompt, self.cache_hit_alignment_tokens),
            getattr(request, "shared_prefix_boundary", 0),
        )
        if not is_kept and position % self.block_size == 0:
            end = position // self.block_size
            mask = masked(self.mask_rule(retention_interval), end - 1, end, ())
            is_kept = mask is None or bool(mask[0])
        if not is_kept:
            self.block_pool.allocator.evict(block)
            return None
        if self.covered(block.block_id, place) == position:
            return None
        return self.block_pool.cache_partial_block(
            request, block, position, self.kv_cache_group_id, self.block_size, replace_existing_hashes=True
        )

    def take_new_states(self) -> list[tuple[str, int, int]]:
        taken = self._new_states or []
        if taken:
            self._new_states = []
        return taken

    def take_last_state(self, request_id: str, num_computed: int, num_in_flight: int) -> tuple[int, int] | None:
        if num_in_flight or self._last_states.get(request_id, (0, -1))[1] != num_computed:
            self._last_states.pop(request_id, None)
            return None
        return self._last_states.pop(request_id)

    def _forget(self, request_id: str) -> None:
        """Forget what is known of a request besides its blocks."""
        self._planned.pop(request_id, None)
        self._checkpoints.pop(request_id, None)
        self._last_states.pop(request_id, None)
        if self._new_states:
            self._new_states = [each for each in self._new_states if each[0] != request_id]

    def pop(self, request_id: str) -> Ids:
        self._forget(request_id)
        return super().pop(request_id)

    def free(self, request_id: str) -> None:
        self._forget(request_id)
        super().free(request_id)

    def new_step_starts(self) -> None:
        self.cached_blocks_this_step.clear()
