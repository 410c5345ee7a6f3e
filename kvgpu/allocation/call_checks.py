"""`CallChecks`: what is wrong with a call of `allocate_slots`, before it changes anything."""

from typing import Any, NamedTuple, NoReturn

from kvgpu.arguments import name_of, own_blocks, ready, refuse_odd_hashes
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentError, ArgumentTypeError, GroupCountError, RunningRequestError
from kvgpu.groups.compiled import find_hit_fault
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.integers import as_integer, as_integers, shown
from kvgpu.rules.plan_words import FULL

NO_HITS: tuple[Ids, ...] = ()

SIGNED = ("num_computed_tokens", "num_new_tokens")
"""Numbers that an engine may let fall below 0, see `SlotAllocator.lowest`."""


class SlotNumbers(NamedTuple):
    """What a call asks for a request, in tokens: integers of 0 to `MOST_TOKENS`."""

    num_computed_tokens: int
    """Tokens that the request has, by what it says itself."""
    num_tokens: int
    num_prompt_tokens: int
    """-1 where the request does not say."""
    num_new_tokens: int
    num_new_computed_tokens: int
    num_lookahead_tokens: int
    num_external_computed_tokens: int
    num_encoder_tokens: int
    reserved_blocks: int
    num_in_flight_tokens: int
    headroom: int

    @classmethod
    def checked(cls, request: Any, lowest: int, *given: Any) -> "SlotNumbers":
        """Return the numbers of a request and those given to the call, checked. O(1).

        Args:
            request: The request.
            lowest: Least value of those that are SIGNED.
            given: The fields from `num_new_tokens` on.

        Raises:
            ArgumentTypeError: The request has no such number, or one is no integer.
            ArgumentError: One is out of range.
        """
        try:
            prompt = getattr(request, "num_prompt_tokens", None)
            values = (request.num_computed_tokens, request.num_tokens, 0 if prompt is None else prompt, *given)
        except AttributeError as error:
            raise ArgumentTypeError(f"request {name_of(request)} cannot be served: {error}") from None
        try:
            made = cls._make(as_integers(cls._fields, values))
        except ArgumentError:
            lows = (lowest if name in SIGNED else 0 for name in cls._fields)
            made = cls._make(map(as_integer, cls._fields, values, lows))
        return made._replace(num_prompt_tokens=-1) if prompt is None else made


def are_distinct(hashes: Any) -> bool:
    """Whether no two hashes of a request can be the same, so that none of its hits comes twice."""
    return isinstance(hashes, BlockHashes) and hashes.linked


def raise_bad_hit(request_id: Any, block_id: int, num_blocks: int) -> NoReturn:
    """
    Raises:
        ArgumentError: Always; says why a block cannot be a hit.
    """
    raise ArgumentError(
        f"request {request_id}: block {block_id} cannot be a computed block. Those are cached blocks of this pool, "
        f"with ids below {num_blocks}, each once; null blocks stand only where the group's mask puts them. "
        "Give what get_computed_blocks() has found"
    )


class CallChecks:
    """Checks what a call of `allocate_slots` was given against the groups of a coordinator."""

    def __init__(self, coordinator: KVCacheCoordinator) -> None:
        self._coordinator = coordinator
        self._block_pool = coordinator.block_pool
        self._masked = [group for group in coordinator.single_type_managers if group.rule_kind != FULL]

    def refuse_unheld(self, request_id: Any, num_tokens: int) -> None:
        """Refuse a request that is not running, says that tokens are computed, and holds no blocks for them.

        Blocks before a mask are left out when new ones are counted, but not when they are given.

        Raises:
            ArgumentError: Tokens of a request that is not running are said to be computed, and it holds no blocks for
                them.
        """
        for single in self._masked:
            blocks = single.req_to_blocks.get(request_id)
            if blocks is not None and blocks.num_cached >= 0:
                continue
            held = 0 if blocks is None else len(blocks) * single.block_size
            if num_tokens > held:
                raise ArgumentError(
                    f"request {request_id} says that {num_tokens} of its tokens are computed, but holds blocks for "
                    f"{held}: set num_computed_tokens to 0 when it is freed, or allocated for the first time"
                )

    def refuse_hashes_to_come(self, request_id: Any, hashes: Any, num_tokens: int) -> None:
        """Check the hashes under which blocks are about to be cached.

        Raises:
            ArgumentTypeError: One of them, among those of the first `num_tokens` tokens, is not a hash.
        """
        if isinstance(hashes, BlockHashes):
            return
        size = self._coordinator.hash_block_size
        handled = [
            single.num_cached_block.get(request_id, 0) * single.block_size // size
            for single in self._coordinator.single_type_managers
        ]
        refuse_odd_hashes(request_id, hashes[min(handled, default=0) : num_tokens // size])

    def computed_of(
        self, request_id: Any, new_computed_blocks: KVCacheBlocks | None, num_tokens: int
    ) -> tuple[Ids, ...]:
        """Return the ids of computed blocks per group, which hold `num_tokens` tokens; `NO_HITS` if there are none.

        Raises:
            ArgumentError: Blocks without prefix caching, of other pools, or fewer than the tokens need.
            ArgumentTypeError: Something else than `KVCacheBlocks`.
            BlockIdError: An id is outside the pool.
            GroupCountError: Blocks of another number of groups.
            RunningRequestError: The request runs already.
        """
        computed, longest = NO_HITS, 0
        if new_computed_blocks is not None:
            groups = getattr(new_computed_blocks, "blocks", None)
            if not isinstance(groups, tuple | list):
                raise ArgumentTypeError(
                    f"new_computed_blocks: KVCacheBlocks are expected, got {shown(new_computed_blocks)}"
                )
            singles, state = self._coordinator.single_type_managers, self._block_pool.state
            if len(groups) != len(singles):
                raise GroupCountError(
                    f"request {request_id}: computed blocks of {len(groups)} groups, there are {len(singles)}"
                )
            listed = []
            for single, blocks in zip(singles, groups, strict=True):
                # Ranges are looked at by `hit_fault`; a list of the pool's own is an array that compiled code takes.
                if (
                    isinstance(blocks, BlockList)
                    and blocks.state is state
                    and blocks.ids.dtype == NO_IDS.dtype
                    and blocks.ids.flags.carray
                ):
                    ids = blocks.ids
                else:
                    ids = ready(own_blocks(state, blocks), NO_IDS.dtype)
                if len(ids):
                    if not self._block_pool.enable_caching:
                        raise ArgumentError(f"request {request_id}: computed blocks without prefix caching")
                    if request_id in single.num_cached_block:
                        raise RunningRequestError(
                            f"request {request_id} is running: it cannot take computed blocks; free it first"
                        )
                    # Of the group with the most: with EAGLE, hybrids can be given shorter hits in some (fact 46).
                    longest = max(longest, len(ids) * single.block_size)
                listed.append(ids)
            computed = tuple(listed)
        # Tokens without blocks would be cached as if they had been computed.
        if num_tokens > longest:
            raise ArgumentError(
                f"request {request_id}: num_new_computed_tokens is {num_tokens}, the computed blocks hold "
                f"{longest} tokens"
            )
        return computed

    def refuse_bad_hits(self, request_id: Any, computed: tuple[Ids, ...], distinct: bool) -> None:
        """Refuse computed blocks that cannot be hits of the request.

        Raises:
            ArgumentError: A block cannot be a hit of the request.
        """
        pool = self._block_pool
        # Keys that were entered by hand need not be those of their blocks.
        cached_only = not (pool.cached_block_hash_to_block.extras or pool.behaviour.trusts_hits)
        records = pool.state.records[: pool.num_gpu_blocks + 1]  # without those of aliases
        for single, ids in zip(self._coordinator.single_type_managers, computed, strict=True):
            place = find_hit_fault(records, ids, pool.state.null_id, single.rule_kind != FULL, cached_only, distinct)
            if place >= 0:
                raise_bad_hit(request_id, int(ids[place]), pool.num_gpu_blocks)
