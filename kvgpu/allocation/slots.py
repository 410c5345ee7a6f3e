"""`SlotAllocator`: what `KVCacheManager.allocate_slots` does once a guard has not answered."""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from kvgpu.allocation.array_allocator import ArrayAllocator, SlotsCall
from kvgpu.allocation.compiled import FITS, NO_ROOM
from kvgpu.arguments import name_of, own_blocks, ready, refuse_odd_hashes, sequence_of_hashes
from kvgpu.blocks.block_list import BlockList
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.blocks.record import NO_IDS, Ids
from kvgpu.blocks.state import KVCacheBlock
from kvgpu.compiled.jit import python_of
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentError, ArgumentTypeError, GroupCountError, RunningRequestError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.groups.compiled import find_hit_fault
from kvgpu.hashing.block_hashes import BlockHashes
from kvgpu.integers import as_integers, as_switch, shown
from kvgpu.rules.allocation import tokens_to_cache
from kvgpu.rules.plan_words import FULL

_tokens_to_cache = python_of(tokens_to_cache)

NO_HITS: tuple[Ids, ...] = ()


class SlotNumbers(NamedTuple):
    """What is asked for a request, in tokens: integers of 0 to `MOST_TOKENS`."""

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

    @classmethod
    def checked(cls, request: Any, *asked: Any) -> "SlotNumbers":
        """The numbers of a request, and what is asked for it. O(1).

        Raises:
            ArgumentTypeError: The request has no such number, or one is no integer.
            ArgumentError: One is out of range.
        """
        try:
            prompt = getattr(request, "num_prompt_tokens", None)
            values = (request.num_computed_tokens, request.num_tokens, 0 if prompt is None else prompt, *asked)
        except AttributeError as error:
            raise ArgumentTypeError(f"request {name_of(request)} is none: {error}") from None
        made = cls._make(as_integers(cls._fields, values))
        return made._replace(num_prompt_tokens=-1) if prompt is None else made


def are_distinct(hashes: Any) -> bool:
    """Whether no two hashes of a request can be the same, so that none of its hits comes twice."""
    return isinstance(hashes, BlockHashes) and hashes.linked


def hashes_of(request: Any, request_id: Any, needed: int) -> Any:
    """The hashes of a request, at least so many.

    Raises:
        ArgumentError: It has fewer.
        ArgumentTypeError: It has none.
    """
    hashes = sequence_of_hashes(request_id, getattr(request, "block_hashes", None))
    if len(hashes) < needed:
        raise ArgumentError(
            f"request {request_id} has {len(hashes)} block hashes, {needed} are needed; give it a block_hasher"
        )
    return hashes


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


def _is_preempted(request: Any) -> bool:
    """
    Raises:
        ArgumentTypeError: The request does not say it in a number.
    """
    try:
        return bool(getattr(request, "num_preemptions", 0) > 0)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"request {name_of(request)}: num_preemptions: {error}") from None


class SlotAllocator(Exclusive):
    """Gives requests slots in the blocks of all groups, and takes them back.

    Args:
        coordinator: Of these groups.
        max_model_len: Longest sequence, in tokens.
        on_admission: Called for each request that was given its first blocks with its tokens, the tokens of its hits,
            and whether it was preempted before; None where nobody wants to know.

    Attributes:
        arrays: Serves usual calls in one compiled call; None where something does not lie in arrays.
        empty: `KVCacheBlocks` without blocks, the same object for all calls that need none.
        first_tables: Block tables of the first group; None without groups.
    """

    def __init__(
        self,
        coordinator: KVCacheCoordinator,
        max_model_len: int,
        on_admission: Callable[[int, int, bool], None] | None = None,
    ) -> None:
        super().__init__(coordinator.block_pool.turn)
        self.coordinator = coordinator
        self.block_pool = coordinator.block_pool
        self.max_model_len = max_model_len
        self.enable_caching = coordinator.block_pool.enable_caching
        groups = coordinator.single_type_managers
        self.arrays = ArrayAllocator(coordinator, max_model_len) if ArrayAllocator.serves(coordinator) else None
        self.empty = KVCacheBlocks(tuple(() for _ in groups))
        self.first_tables = groups[0].req_to_blocks if groups else None
        self._masked = [group for group in groups if group.rule_kind != FULL]
        self._on_admission = on_admission

    def wrapped(self, blocks: tuple[Sequence[KVCacheBlock], ...]) -> KVCacheBlocks:
        """Blocks of each group; all empty ones are one shared object. O(groups)."""
        return KVCacheBlocks(blocks) if any(map(len, blocks)) else self.empty

    @exclusive
    def allocate_slots(self, request: Any, given: SlotsCall) -> KVCacheBlocks | None:
        """`KVCacheManager.allocate_slots` for a request that may need something.

        `allocate_request` in `kvgpu.allocation.compiled` states the same order for compiled code.
        """
        request_id = name_of(request)
        on_admission = self._on_admission
        if on_admission is not None and not self._is_new(request, request_id):
            on_admission = None
        # Asked before anything is changed.
        preempted = on_admission is not None and _is_preempted(request)
        if self.arrays is not None:
            usual = given._replace(computed=None) if given.computed is self.empty else given
            status, blocks = self.arrays.allocate(request, request_id, usual)
            if status == NO_ROOM:
                return None
            if status == FITS:
                if on_admission is not None:
                    num_tokens = int(self.arrays.arguments["num_tokens"][0])
                    on_admission(num_tokens, int(given.num_hit_tokens), preempted)
                return KVCacheBlocks(blocks) if blocks else self.empty
        numbers = SlotNumbers.checked(
            request,
            given.num_new,
            given.num_hit_tokens,
            given.num_lookahead,
            given.num_external,
            given.num_encoder,
            given.reserved_blocks,
        )
        if numbers.num_new_tokens == 0 and numbers.num_external_computed_tokens == 0:
            raise ArgumentError("num_new_tokens must be above 0 unless there are external computed tokens")
        must_fit = as_switch("full_sequence_must_fit", given.must_fit)
        coordinator, longest = self.coordinator, self.max_model_len
        if numbers.num_computed_tokens and self._masked:
            self._refuse_unheld(request_id, numbers.num_computed_tokens)
        num_local = numbers.num_computed_tokens + numbers.num_new_computed_tokens
        total_computed = num_local + numbers.num_external_computed_tokens
        num_main = total_computed + numbers.num_new_tokens
        if num_main > longest:
            raise ArgumentError(
                f"request {request_id} would have {num_main} tokens, max_model_len is {longest}: "
                "tokens beyond it have no slots"
            )
        caches = self.enable_caching and not as_switch("delay_cache_blocks", given.delays)
        num_cacheable = _tokens_to_cache(num_main, numbers.num_tokens) if caches else 0
        hashes = hashes_of(request, request_id, num_cacheable // coordinator.hash_block_size)
        computed = self._computed_of(request_id, given.computed, numbers.num_new_computed_tokens)
        takes_hits = computed is not NO_HITS
        if takes_hits:
            self._refuse_bad_hits(request_id, computed, are_distinct(hashes))
        if caches:
            coordinator.refuse_hashed(request_id, num_cacheable)
            self.refuse_hashes_to_come(request_id, hashes, num_cacheable)
        hits = computed if takes_hits else self.empty.blocks
        num_free = self.block_pool.get_num_free_blocks()
        if must_fit:
            full = min(numbers.num_tokens, longest)
            needed = coordinator.get_num_blocks_to_allocate(
                request_id, full, hits, numbers.num_encoder_tokens, total_computed, full, True
            )
            if needed > num_free:
                return None
        coordinator.remove_skipped_blocks(request_id, total_computed)
        num_slots = min(num_main + numbers.num_lookahead_tokens, longest)
        needed = coordinator.get_num_blocks_to_allocate(
            request_id, num_slots, hits, numbers.num_encoder_tokens, total_computed, num_main
        )
        if needed > self.block_pool.get_num_free_blocks() - numbers.reserved_blocks:
            return None
        if takes_hits or numbers.num_external_computed_tokens > 0:
            coordinator.allocate_new_computed_blocks(request_id, hits, num_local, numbers.num_external_computed_tokens)
        new_blocks = coordinator.allocate_new_blocks(request_id, num_slots, num_main, numbers.num_encoder_tokens)
        if caches:
            coordinator.cache_blocks(request, num_cacheable)
        if self.first_tables is not None:
            quiet = coordinator.quiet_until(request_id, total_computed)
            self.first_tables[request_id].quiet_until = quiet
        if on_admission is not None:
            on_admission(numbers.num_tokens, numbers.num_new_computed_tokens, preempted)
        return self.wrapped(new_blocks)

    def _refuse_unheld(self, request_id: Any, num_tokens: int) -> None:
        """Blocks in front of a mask are left out when new ones are counted, and not when they are given.

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

    def _is_new(self, request: Any, request_id: Any) -> bool:
        """Whether a request holds nothing yet, and looks for cached blocks."""
        tables = self.first_tables
        reads = self.enable_caching and not getattr(request, "skip_reading_prefix_cache", False)
        return bool(reads and tables is not None and not len(tables.get(request_id, ())))

    def free(self, request_id: Any) -> None:
        """Give back all blocks of a request; nothing for an unknown one. O(blocks)."""
        arrays = self.arrays
        if arrays is None or not arrays.free(request_id):
            self.coordinator.free(request_id)

    def refuse_hashes_to_come(self, request_id: Any, hashes: Any, num_tokens: int) -> None:
        """
        Raises:
            ArgumentTypeError: A hash under which a block of the first `num_tokens` tokens is about to be cached is
                none.
        """
        if isinstance(hashes, BlockHashes):
            return
        size = self.coordinator.hash_block_size
        handled = [
            single.num_cached_block.get(request_id, 0) * single.block_size // size
            for single in self.coordinator.single_type_managers
        ]
        refuse_odd_hashes(request_id, hashes[min(handled, default=0) : num_tokens // size])

    def _computed_of(
        self, request_id: Any, new_computed_blocks: KVCacheBlocks | None, num_tokens: int
    ) -> tuple[Ids, ...]:
        """Ids of computed blocks, per group, that hold so many tokens; `NO_HITS` itself for none at all.

        Bad input must be noticed before anything is given back or taken.
        """
        computed, longest = NO_HITS, 0
        if new_computed_blocks is not None and new_computed_blocks is not self.empty:
            groups = getattr(new_computed_blocks, "blocks", None)
            if not isinstance(groups, tuple | list):
                raise ArgumentTypeError(
                    f"new_computed_blocks: KVCacheBlocks are expected, got {shown(new_computed_blocks)}"
                )
            singles, state = self.coordinator.single_type_managers, self.block_pool.state
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
                    if not self.enable_caching:
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

    def _refuse_bad_hits(self, request_id: Any, computed: tuple[Ids, ...], distinct: bool) -> None:
        """
        Raises:
            ArgumentError: A block cannot be a hit of the request.
        """
        pool = self.block_pool
        # Keys that were entered by hand need not be those of their blocks.
        cached_only = not pool.cached_block_hash_to_block.extras
        for single, ids in zip(self.coordinator.single_type_managers, computed, strict=True):
            place = find_hit_fault(
                pool.state.records, ids, pool.state.null_id, single.rule_kind != FULL, cached_only, distinct
            )
            if place >= 0:
                raise_bad_hit(request_id, int(ids[place]), pool.num_gpu_blocks)
