"""Slots for one request: what `KVCacheManager.allocate_slots` does once a guard has not answered."""

from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

from kvgpu.arguments import name_of, own_blocks, ready, refuse_odd_hashes, sequence_of_hashes
from kvgpu.block_hashes import BlockHashes
from kvgpu.block_list import BlockList
from kvgpu.blocks import NO_IDS, Ids
from kvgpu.errors import ArgumentError, ArgumentTypeError, GroupCountError, RunningRequestError
from kvgpu.exclusive import exclusive
from kvgpu.groups.steps import find_hit_fault
from kvgpu.integers import as_integers, as_switch, shown
from kvgpu.kernels.layout import FULL
from kvgpu.kv_cache_blocks import KVCacheBlocks

if TYPE_CHECKING:
    from kvgpu.manager import KVCacheManager

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
            values = (
                request.num_computed_tokens, request.num_tokens, 0 if prompt is None else prompt, *asked,
            )  # fmt: skip
        except AttributeError as error:
            raise ArgumentTypeError(f"request {name_of(request)} is none: {error}") from None
        made = cls._make(as_integers(cls._fields, values))
        return made._replace(num_prompt_tokens=-1) if prompt is None else made


@exclusive
def allocate_slots(
    manager: "KVCacheManager",
    request: Any,
    num_new_tokens: int,
    num_new_computed_tokens: int,
    new_computed_blocks: KVCacheBlocks | None,
    num_lookahead_tokens: int,
    num_external_computed_tokens: int,
    delay_cache_blocks: bool,
    num_encoder_tokens: int,
    full_sequence_must_fit: bool,
    reserved_blocks: int,
) -> KVCacheBlocks | None:
    """`KVCacheManager.allocate_slots` for a request that may need something; the arguments are its."""
    request_id = name_of(request)
    admits = manager.counts_admissions and _is_new(manager, request, request_id)
    # Asked before anything is changed.
    preempted = admits and _is_preempted(request)
    arrays = manager.arrays
    if arrays is not None:
        given = (
            None if new_computed_blocks is manager.empty_kv_cache_blocks else new_computed_blocks
        )
        done = arrays.allocate(
            request, request_id, num_new_tokens, num_new_computed_tokens, given, num_lookahead_tokens,
            num_external_computed_tokens, delay_cache_blocks, num_encoder_tokens,
            full_sequence_must_fit, reserved_blocks,
        )  # fmt: skip
        if done is None:
            return None
        if done is not False:
            if admits:
                _count(
                    manager, int(arrays.asked["num_tokens"][0]), num_new_computed_tokens, preempted
                )
            return KVCacheBlocks(done) if done else manager.empty_kv_cache_blocks
    numbers = SlotNumbers.checked(
        request, num_new_tokens, num_new_computed_tokens, num_lookahead_tokens,
        num_external_computed_tokens, num_encoder_tokens, reserved_blocks,
    )  # fmt: skip
    if numbers.num_new_tokens == 0 and numbers.num_external_computed_tokens == 0:
        raise ArgumentError(
            "num_new_tokens must be above 0 unless there are external computed tokens"
        )
    must_fit = as_switch("full_sequence_must_fit", full_sequence_must_fit)
    coordinator, longest = manager.coordinator, manager.max_model_len
    if numbers.num_computed_tokens and manager.masked:
        _refuse_unheld(manager, request_id, numbers.num_computed_tokens)
    num_local = numbers.num_computed_tokens + numbers.num_new_computed_tokens
    total_computed = num_local + numbers.num_external_computed_tokens
    num_main = total_computed + numbers.num_new_tokens
    if num_main > longest:
        raise ArgumentError(
            f"request {request_id} would have {num_main} tokens, max_model_len is {longest}: those beyond have no slots"
        )
    caches = manager.enable_caching and not as_switch("delay_cache_blocks", delay_cache_blocks)
    # Draft tokens may be rejected, so only what the request has is cached.
    num_cacheable = min(num_main, numbers.num_tokens) if caches else 0
    hashes = hashes_of(request, request_id, num_cacheable // coordinator.hash_block_size)
    computed = _computed_of(
        manager, request_id, new_computed_blocks, numbers.num_new_computed_tokens
    )
    takes_hits = computed is not NO_HITS
    if takes_hits:
        refuse_bad_hits(manager, request_id, computed, are_distinct(hashes))
    if caches:
        coordinator.refuse_hashed(request_id, num_cacheable)
        refuse_hashes_to_come(manager, request_id, hashes, num_cacheable)
    hits = computed if takes_hits else manager.empty_kv_cache_blocks.blocks
    num_free = manager.block_pool.get_num_free_blocks()
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
    if needed > manager.block_pool.get_num_free_blocks() - numbers.reserved_blocks:
        return None
    if takes_hits or numbers.num_external_computed_tokens > 0:
        coordinator.allocate_new_computed_blocks(
            request_id, hits, num_local, numbers.num_external_computed_tokens
        )
    new_blocks = coordinator.allocate_new_blocks(
        request_id, num_slots, num_main, numbers.num_encoder_tokens
    )
    if caches:
        coordinator.cache_blocks(request, num_cacheable)
    if manager.first_tables is not None:
        quiet = coordinator.quiet_until(request_id, total_computed)
        manager.first_tables[request_id].quiet_until = quiet
    if admits:
        _count(manager, numbers.num_tokens, numbers.num_new_computed_tokens, preempted)
    return manager.create_kv_cache_blocks(new_blocks)


def _refuse_unheld(manager: "KVCacheManager", request_id: Any, num_tokens: int) -> None:
    """Blocks in front of a mask are left out when new ones are counted, and not when they are given.

    Raises:
        ArgumentError: Tokens of a request that is not running are said to be computed, and it holds no blocks for them.
    """
    for single in manager.masked:
        blocks = single.req_to_blocks.get(request_id)
        if blocks is not None and blocks.num_cached >= 0:
            continue
        held = 0 if blocks is None else len(blocks) * single.block_size
        if num_tokens > held:
            raise ArgumentError(
                f"request {request_id} says that {num_tokens} of its tokens are computed, and holds blocks for {held}: "
                "set num_computed_tokens to 0 when it is freed, or allocated for the first time"
            )


def _is_new(manager: "KVCacheManager", request: Any, request_id: Any) -> bool:
    """Whether a request holds nothing yet, and looks for cached blocks."""
    tables = manager.first_tables
    reads = manager.enable_caching and not getattr(request, "skip_reading_prefix_cache", False)
    return bool(reads and tables is not None and not len(tables.get(request_id, ())))


def _is_preempted(request: Any) -> bool:
    """
    Raises:
        ArgumentTypeError: The request does not say it in a number.
    """
    try:
        return bool(getattr(request, "num_preemptions", 0) > 0)
    except (TypeError, ValueError) as error:
        raise ArgumentTypeError(f"request {name_of(request)}: num_preemptions: {error}") from None


def _count(
    manager: "KVCacheManager", num_tokens: int, num_hit_tokens: int, preempted: bool
) -> None:
    """Count a request that was admitted in the statistics."""
    if manager.prefix_cache_stats is not None:
        manager.prefix_cache_stats.record(num_tokens, int(num_hit_tokens), preempted)


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


def refuse_hashes_to_come(
    manager: "KVCacheManager", request_id: Any, hashes: Any, num_tokens: int
) -> None:
    """
    Raises:
        ArgumentTypeError: A hash under which a block of the first `num_tokens` tokens is about to be cached is none.
    """
    if isinstance(hashes, BlockHashes):
        return
    size = manager.coordinator.hash_block_size
    handled = [
        single.num_cached_block.get(request_id, 0) * single.block_size // size
        for single in manager.coordinator.single_type_managers
    ]
    refuse_odd_hashes(request_id, hashes[min(handled, default=0) : num_tokens // size])


def _computed_of(
    manager: "KVCacheManager",
    request_id: Any,
    new_computed_blocks: KVCacheBlocks | None,
    num_tokens: int,
) -> tuple[Ids, ...]:
    """Ids of computed blocks, per group, that hold so many tokens; `NO_HITS` itself for none at all.

    Bad input must be noticed before anything is given back or taken.
    """
    computed, longest = NO_HITS, 0
    if new_computed_blocks is not None and new_computed_blocks is not manager.empty_kv_cache_blocks:
        groups = getattr(new_computed_blocks, "blocks", None)
        if not isinstance(groups, tuple | list):
            raise ArgumentTypeError(
                f"new_computed_blocks: KVCacheBlocks are expected, got {shown(new_computed_blocks)}"
            )
        singles, state = manager.coordinator.single_type_managers, manager.block_pool.state
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
                if not manager.enable_caching:
                    raise ArgumentError(
                        f"request {request_id}: computed blocks without prefix caching"
                    )
                if request_id in single.num_cached_block:
                    raise RunningRequestError(
                        f"request {request_id} is running: it cannot take computed blocks; free it first"
                    )
                # Of the group with the most: with EAGLE, hybrids can be given shorter hits in some (fact 45).
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


def are_distinct(hashes: Any) -> bool:
    """Whether no two hashes of a request can be the same, so that none of its hits comes twice."""
    return isinstance(hashes, BlockHashes) and hashes.linked


def refuse_bad_hits(
    manager: "KVCacheManager", request_id: Any, computed: tuple[Ids, ...], distinct: bool
) -> None:
    """
    Raises:
        ArgumentError: A block cannot be a hit of the request.
    """
    pool = manager.block_pool
    # Keys that were entered by hand need not be those of their blocks.
    cached_only = not pool.cached_block_hash_to_block.extras
    for single, ids in zip(manager.coordinator.single_type_managers, computed, strict=True):
        place = find_hit_fault(
            pool.state.records, ids, pool.state.null_id, single.rule_kind != FULL, cached_only,
            distinct,
        )  # fmt: skip
        if place >= 0:
            raise_bad_hit(request_id, int(ids[place]), pool.num_gpu_blocks)


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
