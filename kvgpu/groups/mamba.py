"""Mamba and other layers with a recurrent state."""

from typing import Any

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.block_list import BlockList
from kvgpu.config.specs import MambaSpec, cdiv
from kvgpu.groups.base import Blocks
from kvgpu.groups.mamba_states import MambaStates


class MambaManager(MambaStates):
    """Manages groups whose blocks each hold the state at their last token; only the newest is needed to go on.

    In mode `align` a request holds null blocks, then the state with which it started the step, then
    the block that it writes and its speculative blocks (facts 37 to 42).
    """

    def __init__(self, kv_cache_spec: MambaSpec, block_pool: BlockPool, *args: Any, **kwargs: Any) -> None:
        super().__init__(kv_cache_spec, block_pool, *args, **kwargs)
        self.last_state_block_idx: dict[str, int] = {}
        self._allocated: set[str] = set()
        # Places of a block table before which all states have been given back.
        self._num_retired: dict[str, int] = {}

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
                num_local_computed_tokens=num_local_computed_tokens,
            )
        required = cdiv(num_tokens_main_model, self.block_size) + self.num_speculative_blocks
        computed, external = len(new_computed_blocks) + self._num_held(request_id), 0
        if request_id not in self.num_cached_block:
            skipped = self.get_num_skipped_tokens(total_computed_tokens) // self.block_size
            computed = max(computed, skipped)
            external = max(cdiv(total_computed_tokens, self.block_size) - computed, 0)
        copied = request_id in self.partial_hits.tails or self.ends_inside_block(
            new_computed_blocks, num_local_computed_tokens
        )
        kept = self.plan_checkpoint(request_id, total_computed_tokens, num_tokens_main_model, prefill_end)
        if not apply_admission_cap:
            self._planned.pop(request_id, None)
            if kept is not None:
                self._planned[request_id] = kept
        at_most = 1 + copied + (kept is not None)
        if request_id not in self._allocated:
            at_most += self.num_speculative_blocks
        missing = max(required - computed - external, 0) + copied
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
        self._checkpoints.pop(request_id, None)
        kept = request_id in self._planned
        if kept:
            self._checkpoints[request_id] = self._planned.pop(request_id)
        tail = self.partial_hits.tails.pop(request_id, None)
        if required <= held and not kept and tail is None:
            # The number of draft tokens may shrink from step to step.
            if self._retires:
                self._allocated.add(request_id)
            return BlockList(self.block_pool.state)
        running = request_id in self._allocated
        if running:
            self.last_state_block_idx[request_id] = held - 1 - spare
        elif held:
            self.last_state_block_idx[request_id] = held - 1
        # The blocks from here on are new, or were scratch: a state from inside this step has a block of its own.
        begin = required - spare - 1 - kept
        blocks.extend_ids(self._nulls(max(begin - held, 0)))
        if running:
            # Speculative blocks of the last step move to the end: they hold no state.
            moved = blocks.ids[held - spare : max(min(begin, held), held - spare)].copy()
            blocks.ids[held - spare : held - spare + len(moved)] = self._null_id
            blocks.extend_ids(moved)
        copies = self.block_pool.allocator.take(1 if tail is not None else 0)
        if tail is not None and running:
            self._preserve(request_id, int(blocks.ids[tail]), int(copies[0]))
            copies = copies[:0]
        elif tail is not None:
            self.partial_hits.redirect(blocks, tail, int(copies[0]))
        self._extend(blocks, required - len(blocks))
        self._allocated.add(request_id)
        return BlockList(self.block_pool.state, copies) + blocks[held:] if len(copies) else blocks[held:]

    def _preserve(self, request_id: str, source: int, copy: int) -> None:
        """Have the state in a block that the request is about to overwrite found in a copy of it."""
        self.partial_hits.preserve(source, copy)
        last_state = self._last_states.pop(request_id, None)
        if last_state is not None and self._new_states is not None:
            self._new_states.append((request_id, copy, last_state[1]))
        key = self.block_pool.state.key_of(copy)
        if key is not None:
            self.cached_blocks_this_step.add(key)

    def _is_scratch(self, request_id: str, place: int) -> bool:
        return request_id in self._allocated and place >= self._num_held(request_id) - self.num_speculative_blocks

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

    def _forget(self, request_id: str) -> None:
        self._allocated.discard(request_id)
        self.last_state_block_idx.pop(request_id, None)
        self._num_retired.pop(request_id, None)
        super()._forget(request_id)
