"""`TransferCalls`: what an engine asks of a manager when blocks are read and written beside it, as by a connector."""

from collections.abc import Sequence
from typing import Any

from kvgpu.arguments import checked_name, name_of
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.config.kv_cache_config import KVCacheBlockCopy
from kvgpu.config.specs import AttentionSpec, CrossAttentionSpec, EncoderOnlyAttentionSpec, cdiv
from kvgpu.errors import ArgumentError
from kvgpu.exclusive import exclusive
from kvgpu.integers import as_integer
from kvgpu.interface.manager_views import ManagerViews
from kvgpu.rules.plan_words import MAMBA

NOT_CACHED = (CrossAttentionSpec, EncoderOnlyAttentionSpec)
"""Specs whose blocks have no place in a prefix."""


class TransferCalls(ManagerViews):
    """The part of `KVCacheManager` for connectors, deferred frees and copies of blocks, as vLLM has it since 0.26."""

    def get_computed_blocks_for_connector(
        self, request: Any, max_cache_hit_length: int | None = None
    ) -> tuple[KVCacheBlocks, int, int, bool]:
        """Find the cached prefix of a request whose rest a connector may bring (B78).

        A connector brings states anyway, so the hit of full attention counts even where a group with states has less.

        Args:
            request, max_cache_hit_length: As in `get_computed_blocks`.

        Returns:
            The blocks per group, the number of tokens in them, the junction (see `get_computed_blocks`), and whether
            some group has fewer tokens: then the hit is of no use unless the connector brings the rest.

        Raises:
            ArgumentError, ArgumentTypeError: As in `get_computed_blocks`.

        Expected O(blocks hit). A device looks up all hashes, once for each kind of group, and the call waits for it.
        """
        return self.lookups.for_connector(request, max_cache_hit_length)

    def get_block_ids_for_computed_tokens(self, request_id: str, num_computed_tokens: int) -> tuple[list[int], ...]:
        """Return the ids of the blocks that hold the first tokens of a request, per group (B42). O(blocks).

        Groups without one block for so many tokens, as those of states, show all that they have.

        Raises:
            ArgumentError, ArgumentTypeError: The number is below 0, or not an integer.
        """
        num_tokens = as_integer("num_computed_tokens", num_computed_tokens)
        specs = [group.kv_cache_spec for group in self.kv_cache_config.kv_cache_groups]
        return tuple(
            ids[: cdiv(num_tokens, spec.block_size)]
            if isinstance(spec, AttentionSpec) and not isinstance(spec, NOT_CACHED)
            else ids
            for spec, ids in zip(specs, self.get_block_ids(request_id), strict=True)
        )

    def truncate_computed_blocks(self, blocks: KVCacheBlocks, num_computed_tokens: int) -> KVCacheBlocks:
        """Return the first blocks of a hit, up to a number of tokens; the hit stays as it is (B45). O(blocks).

        A group of states may have fewer: something else brings the state at the new end.

        Raises:
            ArgumentError: The number is below 0 or not a multiple of the block size of a group, or a group has fewer
                blocks.
            ArgumentTypeError: The number is not an integer.
        """
        num_tokens = as_integer("num_computed_tokens", num_computed_tokens)
        cut: list[Sequence[KVCacheBlock]] = []
        for manager, given in zip(self.coordinator.single_type_managers, blocks.blocks, strict=True):
            count, rest = divmod(num_tokens, manager.block_size)
            if not manager.kv_cache_spec.prefix_cacheable:
                count = rest = 0
            elif manager.rule_kind == MAMBA:
                count = min(count, len(given))
            if rest or count > len(given):
                raise ArgumentError(
                    f"a hit of {len(given)} blocks of {manager.block_size} tokens in group "
                    f"{manager.kv_cache_group_id} cannot be cut to {num_tokens} tokens"
                )
            cut.append(given[:count])
        return self.create_kv_cache_blocks(tuple(cut))

    def estimate_cached_tokens(self, request: Any) -> int:
        """Return how many of a request's leading tokens are cached in all groups, by its cached blocks (B43).

        O(blocks behind the last cached one, and groups).
        """
        fewest: int | None = None
        request_id = name_of(request)
        for manager, group in zip(
            self.coordinator.single_type_managers, self.kv_cache_config.kv_cache_groups, strict=True
        ):
            spec = group.kv_cache_spec
            if isinstance(spec, NOT_CACHED) or not spec.prefix_cacheable:
                continue
            blocks = manager.req_to_blocks.get(request_id)
            ids = NO_IDS if blocks is None else blocks.ids
            # What a block covers lies behind the block before it, so the last one that is cached decides.
            covered = (manager.covered(int(ids[place]), place) for place in reversed(range(len(ids))))
            num_tokens = next(filter(None, covered), 0)
            fewest = num_tokens if fewest is None else min(fewest, num_tokens)
        return fewest or 0

    @exclusive
    def pop_blocks_for_free(self, request: Any) -> list[KVCacheBlock]:
        """Forget a request and return its blocks, which the caller gives back with `BlockPool.free_blocks` (B41).

        The blocks come group by group in the order of allocation, without the null blocks in front; the caller gives
        them back in reverse order once nothing reads them. None for an unknown request. O(blocks).
        """
        if self.hints is not None:
            self.hints.end(request)
        state, ids = self.coordinator.block_pool.state, self.coordinator.pop(name_of(request))
        self.coordinator.block_pool.holders.hand_out(ids)
        return list(BlockList(state, ids))

    @exclusive
    def record_blocks_for_zeroing(self, request_id: str, start_token: int) -> None:
        """Have `take_new_block_ids` return a request's blocks from a token on again, as after a failed load. O(blocks).

        Raises:
            ArgumentError: The token is below 0, or does not begin a block in some group that records new blocks.
            ArgumentTypeError: The token is not an integer.
        """
        start = as_integer("start_token", start_token)
        managers = [each for each in self.coordinator.single_type_managers if each.records_new_blocks]
        for manager in managers:
            if start % manager.block_size:
                raise ArgumentError(f"start_token {start} does not begin a block of {manager.block_size} tokens")
        for manager in managers:
            blocks = manager.req_to_blocks.get(checked_name(request_id))
            if blocks is not None:
                manager.new_ids.note(blocks.ids[start // manager.block_size :].copy())

    @exclusive
    def take_kv_cache_block_copies(self) -> tuple[list[KVCacheBlockCopy], list[KVCacheBlock]]:
        """Return the copies of blocks that a worker has to make before the next step, and the blocks to give back with
        `BlockPool.free_blocks` once it has made them: both of each copy (B84). O(copies).
        """
        view = self.block_pool.state.view
        copies = [copy for group in self.coordinator.single_type_managers for copy in group.partial_hits.take_copies()]
        return copies, [view(block_id) for copy in copies for block_id in copy]

    @exclusive
    def take_boundary_state_offloads(self) -> dict[str, list[tuple[int, int, int]]]:
        """Return the states that were cached since the last call, for a connector to store (B89).

        Returns:
            For each request (group, block id, tokens before the state).

        O(such states).
        """
        offloads: dict[str, list[tuple[int, int, int]]] = {}
        for manager in self.coordinator.single_type_managers:
            for request_id, block_id, num_tokens in manager.take_new_states():
                offloads.setdefault(request_id, []).append((manager.kv_cache_group_id, block_id, num_tokens))
        return offloads

    @exclusive
    def finalize_partial_tail_offloads(self, request: Any) -> list[tuple[int, int, int]]:
        """Return the states inside a block that an ended request leaves to a connector, once each (B89).

        Returns:
            (group, block id, tokens before the state), of groups where the request computed nothing after the state.

        Raises:
            ArgumentError, ArgumentTypeError: The request does not say in numbers how many tokens are computed and in
                flight.

        O(groups).
        """
        request_id = name_of(request)
        computed = as_integer("num_computed_tokens", getattr(request, "num_computed_tokens", None))
        in_flight = as_integer("num_in_flight_tokens", getattr(request, "num_in_flight_tokens", 0))
        left = (
            (group.kv_cache_group_id, group.take_last_state(request_id, computed, in_flight))
            for group in self.coordinator.single_type_managers
        )
        return [(group_id, *state) for group_id, state in left if state is not None]
