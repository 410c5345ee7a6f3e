"""Behaviour 0.33: hits that end inside a block, the copies that they make necessary, and states from inside a step."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
from behaviour.later import computed, later
from support.managers import full, make_manager, make_request, mamba, per_backend

from kvgpu.block_pool import BlockPool
from kvgpu.errors import ArgumentError, ArgumentTypeError, BlockStateError
from kvgpu.rules.hits import decide
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, MAMBA

UNIT = 16


def hybrid(backend, **options):
    """Full attention and states, each in blocks of two hash blocks."""
    return later(full(32), mamba(32, "align"), hash_block_size=UNIT, backend=backend, **options)


def producer(manager, tokens=56, stops=(32, 48)):
    """A request whose steps end at some positions, and then with its prompt."""
    request = make_request("producer", tokens, UNIT)
    manager.get_computed_blocks(request)
    for stop in (*stops, tokens):
        assert manager.allocate_slots(request, stop - request.num_computed_tokens) is not None
        request.num_computed_tokens = stop
        manager.new_step_starts()
    return request


@per_backend
class TestSharedEnd:
    def test_the_end_of_a_prompt_is_hit_inside_its_block(self, backend):
        manager = hybrid(backend)
        assert manager.coordinator.enable_partial_hash_hits
        first = producer(manager)
        (copy,), _ = manager.take_kv_cache_block_copies()
        sibling = make_request("sibling", [*range(48), *range(900, 930)], UNIT)
        blocks, num_hits, junction = manager.get_computed_blocks(sibling)
        assert (num_hits, junction) == (48, 0)
        full_ids, state_ids = blocks.get_block_ids()
        assert full_ids == manager.get_block_ids(first.request_id)[0]
        assert state_ids == [0, copy.dst_block_id]
        manager.check()

    def test_a_request_goes_on_in_a_copy(self, backend):
        manager = hybrid(backend)
        producer(manager)
        manager.block_pool.free_blocks(manager.take_kv_cache_block_copies()[1])
        sibling = make_request("sibling", [*range(48), *range(900, 930)], UNIT)
        blocks, num_hits, _ = manager.get_computed_blocks(sibling)
        shared = [ids[-1] for ids in blocks.get_block_ids()]
        new = manager.allocate_slots(sibling, 30, num_hits, blocks)
        copies, retained = manager.take_kv_cache_block_copies()
        assert [copy.src_block_id for copy in copies] == shared
        assert [ids[0] for ids in new.get_block_ids()] == [copy.dst_block_id for copy in copies]
        assert [ids[1] for ids in manager.get_block_ids("sibling")] == [copy.dst_block_id for copy in copies]
        assert [block.block_id for block in retained] == [i for copy in copies for i in copy]
        manager.check()
        manager.block_pool.free_blocks(retained)
        manager.check()
        assert manager.take_kv_cache_block_copies() == ([], [])

    def test_a_copy_needs_a_block_more(self, backend):
        manager = hybrid(backend, num_blocks=9)
        first = producer(manager)
        manager.block_pool.free_blocks(manager.take_kv_cache_block_copies()[1])
        manager.free(first)
        sibling = make_request("sibling", [*range(48), *range(900, 930)], UNIT)
        blocks, num_hits, _ = manager.get_computed_blocks(sibling)
        # 3 hits leave the free queue; each group takes a copy and one block more.
        held = manager.block_pool.allocate(manager.block_pool.get_num_free_blocks() - 3 - 3)
        assert manager.allocate_slots(sibling, 30, num_hits, blocks) is None
        manager.block_pool.free_blocks(held)
        manager.check()

    def test_the_state_that_a_request_overwrites_is_found_in_a_copy(self, backend):
        manager = hybrid(backend)
        request = producer(manager, stops=(32, 48))
        (copy,), _ = manager.take_kv_cache_block_copies()
        key = request.block_hashes[2]
        assert manager.block_pool.get_cached_block(key, [1])[0].block_id == copy.dst_block_id
        assert copy.src_block_id in manager.get_block_ids("producer")[1]
        assert manager.take_boundary_state_offloads()["producer"][-1] == (1, copy.dst_block_id, 48)

    def test_a_request_that_ends_there_leaves_its_state(self, backend):
        manager = hybrid(backend)
        request = make_request("a", 56, UNIT)
        assert manager.allocate_slots(request, 48) is not None
        request.num_computed_tokens = 48
        (state,) = manager.finalize_partial_tail_offloads(request)
        assert state == (1, manager.get_block_ids("a")[1][-1], 48)
        assert manager.finalize_partial_tail_offloads(request) == []

    def test_a_block_that_fills_keeps_the_end_of_the_prompt_as_an_alias(self, backend):
        manager = hybrid(backend, enable_kv_cache_events=True)
        request = make_request("a", 56, UNIT)
        manager.allocate_slots(request, 56)
        request.num_computed_tokens = 56
        block = manager.get_blocks("a").blocks[0][1]
        pool = manager.block_pool
        assert (block.block_hash[:-4], block.block_hash_num_tokens) == (request.block_hashes[2], 48)
        manager.take_events()
        request.append_output_token_ids(list(range(500, 508)))
        manager.allocate_slots(request, 8)
        assert (block.block_hash[:-4], block.block_hash_num_tokens) == (request.block_hashes[3], 64)
        assert pool.get_cached_block(request.block_hashes[2], [0]) == [block]
        of_full = [event for event in manager.take_events() if event.group_idx == 0]
        kinds = [(type(event).__name__, getattr(event, "block_size", None)) for event in of_full]
        assert kinds == [("BlockRemoved", None), ("BlockStored", 32), ("BlockStored", UNIT)]
        pool.evict_blocks([block.block_id])
        assert pool.get_cached_block(request.block_hashes[2], [0]) is None
        assert [type(event).__name__ for event in manager.take_events()] == ["BlockRemoved", "BlockRemoved"]
        manager.check()

    def test_an_alias_leaves_with_its_block(self, backend):
        manager = hybrid(backend, num_blocks=12)
        manager.free(computed(manager, "a", 64, chunk=48))
        manager.block_pool.free_blocks(manager.take_kv_cache_block_copies()[1])
        request = make_request("again", 64, UNIT)
        assert manager.get_computed_blocks(request)[1] == 48
        manager.block_pool.free_blocks(manager.block_pool.allocate(11))
        assert manager.get_computed_blocks(request)[1] == 0
        assert manager.block_pool.cached_block_hashes_by_block == {}
        manager.check()

    def test_a_reset_forgets_parts(self, backend):
        manager = hybrid(backend)
        request = producer(manager)
        manager.block_pool.free_blocks(manager.take_kv_cache_block_copies()[1])
        manager.free(request)
        assert manager.block_pool.reset_prefix_cache()
        assert manager.get_computed_blocks(make_request("b", 56, UNIT))[1] == 0
        manager.check()

    def test_a_step_keeps_a_state_from_inside_it(self, backend):
        spec = replace(mamba(64, "align"), num_prefill_checkpoint_blocks=1, prefill_checkpoint_alignment=UNIT)
        manager = later(full(UNIT), spec, hash_block_size=UNIT, backend=backend, retention=0)
        request = make_request("a", 135, UNIT)
        assert manager.allocate_slots(request, 135) is not None
        (block,) = manager.block_pool.get_cached_block(request.block_hashes[7], [1])
        assert (block.block_hash_num_tokens, manager.get_block_ids("a")[1][1]) == (128, block.block_id)
        manager.new_step_starts()
        assert manager.get_computed_blocks(make_request("again", 135, UNIT))[1] == 128
        manager.check()


@per_backend
def test_a_state_from_inside_is_kept_only_if_its_step_got_blocks(backend):
    spec = replace(mamba(64, "align"), num_prefill_checkpoint_blocks=1, prefill_checkpoint_alignment=UNIT)
    manager = later(full(UNIT), spec, hash_block_size=UNIT, backend=backend, retention=0)
    request = make_request("a", 135, UNIT)
    held = manager.block_pool.allocate(manager.block_pool.get_num_free_blocks())
    assert manager.allocate_slots(request, 135) is None
    manager.block_pool.free_blocks(held)
    assert manager.allocate_slots(request, 16) is not None
    request.num_computed_tokens = 16
    held = manager.block_pool.allocate(manager.block_pool.get_num_free_blocks())
    assert manager.allocate_slots(request, 119) is None
    manager.cache_blocks(request, 16)
    assert manager.block_pool.get_cached_block(request.block_hashes[7], [1]) is None
    manager.check()


@pytest.mark.parametrize("name", ["num_prompt_tokens", "num_computed_tokens", "shared_prefix_boundary"])
def test_odd_numbers_of_a_request_are_refused_before_anything_is_cached(name):
    manager = hybrid("host", enable_mamba_shared_prefix_checkpoint=True, use_eagle=True)
    request = make_request("a", 70, UNIT)
    assert manager.allocate_slots(request, 70, delay_cache_blocks=True) is not None
    odd = SimpleNamespace(request_id="a", block_hashes=request.block_hashes, num_prompt_tokens=70)
    setattr(odd, name, "many")
    with pytest.raises(ArgumentTypeError, match=name):
        manager.cache_blocks(odd, 64)
    assert manager.block_pool.get_cached_block(request.block_hashes[1], [0]) is None


@pytest.mark.parametrize("length", range(9))
@pytest.mark.parametrize("drop", [False, True])
def test_a_part_is_the_longest_of_the_block_after_the_run(length, drop):
    plan = PrefixPlan((HitQuery(HitRule(FULL, 4, 1, drop, 0, 1), (0,), 4),), looks_beyond=True)
    for cached in range(1 << length):
        whole = next((b for b in range(length // 4) if not cached >> (4 * b + 3) & 1), length // 4)
        parts = [u + 1 for u in range(4 * whole, min(4 * whole + 3, length)) if cached >> u & 1]
        expected = max(max(parts, default=4 * whole) - drop, 0)
        num_tokens, _, lengths, _ = decide(
            plan, lambda q, b, h, c=cached: bool(c >> h & 1), length, max(length - drop, 0)
        )
        assert (num_tokens, lengths[0]) == (expected, -(-expected // 4))


@pytest.mark.parametrize("caching", [True, False])
def test_rows_for_aliases_take_memory_only_with_caching(caching):
    state = hybrid("host", enable_caching=caching).block_pool.state
    assert (len(state.records) > state.num_blocks + 1) is caching


@pytest.mark.parametrize("length", range(9))
def test_of_states_the_last_one_counts(length):
    plan = PrefixPlan((HitQuery(HitRule(MAMBA, 4, 1, False, 0, 1), (0,), 4),), looks_beyond=True)
    for cached in range(1 << length):
        expected = cached.bit_length()
        num_tokens, firsts, lengths, _ = decide(plan, lambda q, b, h, c=cached: bool(c >> h & 1), length, length)
        assert (num_tokens, lengths[0]) == (expected, -(-expected // 4))
        assert firsts[0] == max(lengths[0] - 1, 0)


class TestPool:
    @pytest.fixture(params=[0, 8])
    def pool(self, request):
        """With and without rows for aliases: what there is no row for is found more slowly."""
        return BlockPool(8, True, 4, behaviour="0.33", num_aliases=request.param)

    def test_a_block_is_found_under_several_keys(self, pool):
        request = make_request("a", 16, 4)
        (block,) = pool.get_new_blocks(1)
        pool.cache_full_blocks(request, [block], 0, 1, 16, 0)
        for num_tokens in (4, 12):
            pool.cache_partial_block(request, block, num_tokens, 0, 16)
        found = [pool.get_cached_block(hash_, [0]) for hash_ in request.block_hashes]
        assert found == [[block], None, [block], [block]]
        pool.check()
        pool.evict_blocks([block.block_id])
        assert [pool.get_cached_block(hash_, [0]) for hash_ in request.block_hashes] == [None] * 4
        pool.check()

    def test_a_longer_part_takes_the_place_of_a_shorter_one(self, pool):
        request = make_request("a", 16, 4)
        (block,) = pool.get_new_blocks(1)
        for num_tokens in (4, 8):
            pool.cache_partial_block(request, block, num_tokens, 0, 16)
        assert block.block_hash_num_tokens == 8
        assert pool.get_cached_block(request.block_hashes[0], [0]) is None

    def test_keys_move_to_another_block(self, pool):
        request = make_request("a", 16, 4)
        source, target = pool.get_new_blocks(2)
        pool.cache_partial_block(request, source, 8, 0, 16)
        pool.cache_partial_block(request, source, 4, 0, 16)
        pool.move_block_hashes(source, target)
        assert [pool.get_cached_block(h, [0]) for h in request.block_hashes[:2]] == [[target], [target]]
        assert pool.is_block_writable(source)
        assert not pool.is_block_writable(target)
        with pytest.raises(BlockStateError, match="has keys already"):
            pool.move_block_hashes(source, target)
        pool.check()

    @pytest.mark.parametrize(("num_tokens", "size"), [(3, 16), (4, 6), (20, 16), (0, 16)])
    def test_odd_numbers_are_refused(self, pool, num_tokens, size):
        request = make_request("a", 16, 4)
        (block,) = pool.get_new_blocks(1)
        with pytest.raises(ArgumentError):
            pool.cache_partial_block(request, block, num_tokens, 0, size)
        assert block.block_hash is None

    def test_a_null_block_is_left_alone(self, pool):
        assert pool.cache_partial_block(make_request("a", 16, 4), pool.null_block, 4, 0, 16) is None


def test_hits_of_0_23_end_with_a_block():
    manager = make_manager(full(32), mamba(32, "align"), hash_block_size=UNIT)
    assert not manager.coordinator.enable_partial_hash_hits
    assert manager.take_kv_cache_block_copies() == ([], [])
