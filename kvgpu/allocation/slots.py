"""`SlotAllocator`: what `KVCacheManager.allocate_slots` does once a guard has not answered."""

from typing import Any

from kvgpu.allocation.arguments import SlotsCall
from kvgpu.allocation.array_allocator import ArrayAllocator
from kvgpu.allocation.call_checks import NO_HITS, CallChecks, SlotNumbers, are_distinct
from kvgpu.allocation.compiled import FITS, NO_ROOM
from kvgpu.allocation.lookups import PrefixLookups
from kvgpu.arguments import hashes_of, integers, junction_of, name_of
from kvgpu.block_tables.request_blocks import RequestBlocks
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.compiled.jit import python_of
from kvgpu.coordinators.base import KVCacheCoordinator
from kvgpu.errors import ArgumentError, ArgumentTypeError
from kvgpu.exclusive import Exclusive, exclusive
from kvgpu.integers import MOST_TOKENS, as_integer, as_switch
from kvgpu.rules.allocation import tokens_to_cache

_tokens_to_cache = python_of(tokens_to_cache)


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
        lookups: Told of requests that were given their first blocks.

    Attributes:
        arrays: Serves usual calls in one compiled call; None where something does not lie in arrays.
        checks: Says what is wrong with calls.
        first_tables: Block tables of the first group; None without groups.
        lowest: Least number of computed tokens, and of new ones, that a call may name: 0. Below 0 for an engine that
            now and then counts less than none of a request, and expects that nothing happens.
    """

    def __init__(self, coordinator: KVCacheCoordinator, lookups: PrefixLookups) -> None:
        super().__init__(coordinator.block_pool.turn)
        self.coordinator = coordinator
        self.block_pool = coordinator.block_pool
        self.max_model_len = coordinator.max_model_len
        self.enable_caching = coordinator.block_pool.enable_caching
        groups = coordinator.single_type_managers
        self.arrays = ArrayAllocator(coordinator) if ArrayAllocator.serves(coordinator) else None
        self.first_tables = groups[0].req_to_blocks if groups else None
        self.checks = CallChecks(coordinator)
        self.lowest = 0
        self._behaviour = coordinator.behaviour
        self.empty = lookups.empty
        self._lookups = lookups

    def covers(self, request: Any, given: tuple[Any, ...]) -> bool:
        """Whether a request stays inside its blocks and needs nothing, so that most calls need not go through the
        groups; False if anything is odd. `given` as in `allocate_slots`. O(1)."""
        num_new, num_hit_tokens, computed, num_lookahead, num_external, _, _, must_fit, reserved_blocks = given[:9]
        headroom = given[10]
        try:
            if (
                self.first_tables is None
                or computed is not None
                or not num_new > 0
                or num_hit_tokens
                or num_external
                or must_fit
                or reserved_blocks
                or headroom
            ):
                return False
            table = dict.get(self.first_tables, request.request_id)
            num_computed = request.num_computed_tokens
            num_slots = num_computed + num_new + num_lookahead
            # A request that only a batch has served is a number here. A sum is an int only if all its terms are.
            return (
                type(table) is RequestBlocks
                and num_slots <= table.covered_until
                and num_slots.__class__ is int
                and num_computed >= 0 <= num_lookahead
            )
        except (AttributeError, TypeError, ValueError, OverflowError):
            return False  # what follows checks the arguments one by one, and refuses them

    @exclusive
    def allocate_slots(self, request: Any, given: tuple[Any, ...]) -> KVCacheBlocks | None:
        """Do what `KVCacheManager.allocate_slots` does, for a request that may need something.

        `given` has the fields of a `SlotsCall`, which nobody has checked.
        `allocate_request` in `kvgpu.allocation.compiled` states the same order for compiled code;
        tests/allocation/test_array_allocator.py compares the two.
        """
        request_id = name_of(request)
        lookups = self._lookups
        is_admission = lookups.counts_admissions and self._is_new(request, request_id)
        # Asked before anything is changed.
        preempted = is_admission and _is_preempted(request)
        if self.arrays is not None:
            status, blocks = self.arrays.allocate(request, request_id, given)
            if status == NO_ROOM:
                return None
            if status == FITS:
                if is_admission:
                    packed = self.arrays.arguments[0]
                    lookups.count_admission(int(packed["num_tokens"]), int(packed["num_hit_tokens"]), preempted)
                return KVCacheBlocks(blocks) if blocks else lookups.empty
        call = SlotsCall(*given)
        numbers = SlotNumbers.checked(
            request,
            self.lowest,
            call.num_new,
            call.num_hit_tokens,
            call.num_lookahead,
            call.num_external,
            call.num_encoder,
            call.reserved_blocks,
            call.num_in_flight,
            call.headroom,
        )
        given_alone = self._behaviour.gives_hits_alone and numbers.num_new_computed_tokens > 0
        if numbers.num_new_tokens == 0 and numbers.num_external_computed_tokens == 0 and not given_alone:
            raise ArgumentError("num_new_tokens must be above 0 unless there are external computed tokens")
        junction = junction_of(request) if self._behaviour.keeps_boundaries else 0
        unzeroed = integers("skip_zeroing_group_ids", call.unzeroed).tolist() if call.unzeroed else ()
        must_fit = as_switch("full_sequence_must_fit", call.must_fit)
        coordinator, checks, longest = self.coordinator, self.checks, self.max_model_len
        if numbers.num_computed_tokens:
            checks.refuse_unheld(request_id, numbers.num_computed_tokens)
        num_local = numbers.num_computed_tokens + numbers.num_new_computed_tokens
        total_computed = num_local + numbers.num_external_computed_tokens
        num_main = total_computed + numbers.num_new_tokens
        total_computed, num_local = max(0, total_computed), max(0, num_local)
        if num_main > longest:
            raise ArgumentError(
                f"request {request_id} would have {num_main} tokens, max_model_len is {longest}: "
                "tokens beyond it have no slots"
            )
        caches = self.enable_caching and not as_switch("delay_cache_blocks", call.delays)
        num_cacheable = max(0, _tokens_to_cache(num_main, numbers.num_tokens)) if caches else 0
        hashes, num_hashed = self._hashes_of(request, request_id, num_cacheable)
        computed = checks.computed_of(request_id, call.computed, numbers.num_new_computed_tokens)
        takes_hits = computed is not NO_HITS
        if takes_hits:
            checks.refuse_bad_hits(request_id, computed, are_distinct(hashes))
        if caches:
            checks.refuse_hashed(request_id, num_cacheable, num_hashed)
            checks.refuse_hashes_to_come(request_id, hashes, num_cacheable)
        hits = computed if takes_hits else lookups.empty.blocks
        num_free = self.block_pool.get_num_free_blocks()
        # A request that resumes computes the tokens again that it had generated.
        prefill_end = max(numbers.num_prompt_tokens, numbers.num_tokens - 1)
        if must_fit:
            full = min(numbers.num_tokens, longest)
            needed = coordinator.get_num_blocks_to_allocate(
                request_id,
                full,
                hits,
                numbers.num_encoder_tokens,
                total_computed,
                full,
                True,
                num_local_computed_tokens=num_local,
                prefill_end=prefill_end,
            )
            if needed + numbers.headroom > num_free:
                return None
        # Steps in flight still read what they were given.
        processed = max(0, total_computed - numbers.num_in_flight_tokens)
        coordinator.remove_skipped_blocks(request_id, processed)
        num_slots = max(0, min(num_main + numbers.num_lookahead_tokens, longest))
        needed = coordinator.get_num_blocks_to_allocate(
            request_id,
            num_slots,
            hits,
            numbers.num_encoder_tokens,
            total_computed,
            num_main,
            num_local_computed_tokens=num_local,
            prefill_end=prefill_end,
        )
        if needed + numbers.headroom > self.block_pool.get_num_free_blocks() - numbers.reserved_blocks:
            return None
        if takes_hits or numbers.num_external_computed_tokens > 0:
            coordinator.allocate_new_computed_blocks(
                request_id, hits, num_local, numbers.num_external_computed_tokens, unzeroed
            )
        new_blocks = coordinator.allocate_new_blocks(request_id, num_slots, num_main, numbers.num_encoder_tokens)
        if caches:
            coordinator.cache_blocks(request, num_cacheable)
        if self.first_tables is not None:
            first = self.first_tables[request_id]
            first.covered_until = coordinator.covered_until(request_id, processed)
            first.junction = junction
        if is_admission:
            lookups.count_admission(numbers.num_tokens, numbers.num_new_computed_tokens, preempted)
        return lookups.wrapped(new_blocks)

    def cache_blocks(self, request: Any, num_computed_tokens: int) -> None:
        """Do what `KVCacheManager.cache_blocks` does."""
        try:
            table = None if self.first_tables is None else dict.get(self.first_tables, request.request_id)
            if (
                table.__class__ is RequestBlocks
                and num_computed_tokens.__class__ is int
                and 0 <= num_computed_tokens <= table.covered_until
            ):
                return  # no block has become full: an asynchronous scheduler asks in every step
        except (AttributeError, TypeError):
            pass  # what follows says what is wrong
        self._cache_full(request, num_computed_tokens)

    @exclusive
    def _cache_full(self, request: Any, num_computed_tokens: int) -> None:
        num_tokens = max(0, as_integer("num_computed_tokens", num_computed_tokens, self.lowest))
        request_id, coordinator = name_of(request), self.coordinator
        tables = [manager.req_to_blocks for manager in coordinator.single_type_managers]
        if not self.enable_caching or not any(request_id in table for table in tables):
            return
        if self._behaviour.keeps_boundaries:
            # Odd ones are refused before anything is cached.
            junction_of(request)
            for name in ("num_prompt_tokens", "num_computed_tokens"):
                given = getattr(request, name, None)
                if given is not None:
                    as_integer(name, given, self.lowest)
        hashes, num_hashed = self._hashes_of(request, request_id, num_tokens)
        self.checks.refuse_hashed(request_id, num_tokens, num_hashed)
        self.checks.refuse_hashes_to_come(request_id, hashes, num_tokens)
        coordinator.cache_blocks(request, num_tokens)

    def _hashes_of(self, request: Any, request_id: Any, num_tokens: int) -> tuple[Any, int]:
        """Return the hashes of a request of which `num_tokens` tokens are to be cached, and how many tokens have one;
        the latter does not count where a missing hash is an error.

        Raises:
            ArgumentError: A hash is missing, and must not be (B31).
            ArgumentTypeError: The request has no sequence of hashes.
        """
        size = self.coordinator.hash_block_size
        if not self._behaviour.clamps_to_hashes:
            return hashes_of(request, request_id, num_tokens // size), MOST_TOKENS
        hashes = hashes_of(request, request_id, 0)
        return hashes, len(hashes) * size

    def _is_new(self, request: Any, request_id: Any) -> bool:
        """Whether a request holds nothing yet, and looks for cached blocks."""
        tables = self.first_tables
        reads = self.enable_caching and not getattr(request, "skip_reading_prefix_cache", False)
        return bool(reads and tables is not None and not len(tables.get(request_id, ())))

    @exclusive
    def get_num_common_prefix_blocks(self, request_id: Any) -> list[int]:
        """Do what `KVCacheManager.get_num_common_prefix_blocks` does."""
        return self.coordinator.get_num_common_prefix_blocks(request_id)

    @exclusive
    def free(self, request_id: Any) -> None:
        """Give back all blocks of a request; nothing for an unknown one. O(blocks)."""
        arrays = self.arrays
        if arrays is None or not arrays.free(request_id):
            self.coordinator.free(request_id)
