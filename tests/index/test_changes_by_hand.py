"""Hashes and entries that somebody changes by hand, between calls: both indexes go on alike, and stay sound."""

import numpy as np
import pytest
from support.managers import admit, full, make_manager, make_request, per_backend, snapshot, window

from kvgpu.errors import KVGPUError
from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import make_block_hash_with_group_id

SIZE = 4
NUM_BLOCKS = 24


def key(fill, width=32, group=0):
    return make_block_hash_with_group_id(BlockHash(bytes([fill]) * width), group)


def filled(backend, **options):
    """A manager, and a request that holds cached blocks 1 to 6 of it."""
    manager = make_manager(full(SIZE), num_blocks=NUM_BLOCKS, backend=backend, **options)
    request = make_request("a", 6 * SIZE, SIZE)
    assert admit(manager, request) is not None
    return manager, request


def hit_of(manager, request):
    return manager.get_computed_blocks(make_request("asks", [*request.all_token_ids, 0], SIZE))[1]


@per_backend
@pytest.mark.parametrize("place", range(6))
def test_a_block_whose_hash_is_forgotten_is_not_found_any_more(backend, place):
    manager, request = filled(backend)
    block = manager.block_pool.blocks[1 + place]
    before = block.block_hash
    block.reset_hash()
    manager.check()
    assert hit_of(manager, request) == place * SIZE
    assert before not in manager.block_pool.cached_block_hash_to_block._cache


@per_backend
def test_of_two_blocks_with_one_hash_the_other_is_found(backend):
    manager = make_manager(full(SIZE), num_blocks=NUM_BLOCKS, backend=backend)
    for name in "ab":
        request = make_request(name, 3 * SIZE, SIZE)
        manager.allocate_slots(request, 3 * SIZE)
    manager.block_pool.blocks[2].reset_hash()
    manager.check()
    blocks, hit = manager.get_computed_blocks(make_request("c", 3 * SIZE + 1, SIZE))
    assert hit == 3 * SIZE
    assert blocks.get_block_ids()[0] == [1, 5, 3]


@per_backend
def test_a_block_with_a_new_hash_is_found_when_it_is_entered(backend):
    manager, _ = filled(backend)
    block = manager.block_pool.blocks[3]
    block.reset_hash()
    block.block_hash = key(9)
    manager.check()
    map = manager.block_pool.cached_block_hash_to_block
    assert map.get_one_block(key(9)) is None
    map.insert(key(9), block)
    assert map.get_one_block(key(9)) is block
    manager.check()


@per_backend
@pytest.mark.parametrize("odd", [False, True], ids=["regular", "odd"])
def test_a_hash_by_which_a_free_block_is_not_found_is_replaced(backend, odd):
    """The block keeps it when it is taken (fact 14), and gets the request's when it is cached."""
    manager = make_manager(full(SIZE), num_blocks=8, backend=backend)
    for block in manager.block_pool.blocks[1:]:
        block.block_hash = key(block.block_id, 20 if odd else 32)
    request = make_request("a", 7 * SIZE, SIZE)
    assert admit(manager, request) is not None
    manager.check()
    assert hit_of(manager, request) == 7 * SIZE


@per_backend
def test_emptying_the_map_alone_leaves_hashes_and_nothing_else(backend):
    manager, request = filled(backend)
    map = manager.block_pool.cached_block_hash_to_block
    hashes = [block.block_hash for block in manager.block_pool.blocks]
    map.clear()
    manager.check()
    assert len(map) == 0
    assert list(map.keys()) == []
    assert [block.block_hash for block in manager.block_pool.blocks] == hashes
    assert hit_of(manager, request) == 0
    assert map.pop(hashes[1], 1) is None


@per_backend
def test_after_the_map_was_emptied_blocks_are_cached_as_before(backend):
    manager, request = filled(backend)
    manager.block_pool.cached_block_hash_to_block.clear()
    manager.free(request)
    again = make_request("b", (NUM_BLOCKS - 1) * SIZE, SIZE)
    assert admit(manager, again) is not None
    assert hit_of(manager, again) == (NUM_BLOCKS - 1) * SIZE
    manager.check()
    manager.free(again)
    manager.evict_blocks(set(range(1, NUM_BLOCKS)))
    assert len(manager.block_pool.cached_block_hash_to_block) == 0
    manager.check()


@per_backend
def test_emptying_the_view_of_the_map_empties_the_map(backend):
    manager, _ = filled(backend)
    manager.block_pool.cached_block_hash_to_block._cache.clear()
    assert len(manager.block_pool.cached_block_hash_to_block) == 0
    manager.check()


class Pair:
    """The same calls to a manager of either index; results, errors and states must be equal."""

    def __init__(self, specs, rng):
        self.rng = rng
        self.managers = [
            make_manager(*specs, num_blocks=NUM_BLOCKS, backend=backend) for backend in ("host", "reference")
        ]
        self.documents = [rng.integers(0, 9, 60).tolist() for _ in range(3)]
        self.running = []

    def both(self, call):
        results = []
        for place, manager in enumerate(self.managers):
            try:
                results.append(call(manager, place))
            except KVGPUError as error:
                results.append(type(error))
        assert results[0] == results[1]
        return results[0]

    def by_hand(self, change):
        """The change of one block and one key, the same on both sides."""
        block_id = int(self.rng.integers(NUM_BLOCKS))
        made = self.rng.random() < 0.5
        fill, width = int(self.rng.integers(5)), int(self.rng.choice([32, 32, 32, 20]))

        def call(manager, _):
            block = manager.block_pool.blocks[block_id]
            chosen = key(fill, width) if made or block.block_hash is None else block.block_hash
            return change(manager.block_pool, block, chosen)

        self.both(call)

    def admit(self, name):
        document = self.documents[self.rng.integers(3)]
        tokens = document[: self.rng.integers(1, 40)] + self.rng.integers(0, 9, 3).tolist()
        requests = [make_request(name, tokens, SIZE) for _ in self.managers]

        def call(manager, place):
            return None if (got := admit(manager, requests[place])) is None else got.get_block_ids()

        if self.both(call) is not None:
            self.running.append(requests)

    def append(self):
        requests = self.running[self.rng.integers(len(self.running))]
        tokens = self.rng.integers(0, 9, 3).tolist()

        def call(manager, place):
            requests[place].append_output_token_ids(tokens)
            new = manager.allocate_slots(requests[place], len(tokens))
            requests[place].num_computed_tokens += len(tokens)
            return None if new is None else new.get_block_ids()

        if self.both(call) is None:
            self.free(requests)

    def free(self, requests):
        self.running.remove(requests)
        self.both(lambda manager, place: manager.free(requests[place]))

    def compare(self):
        one, other = map(snapshot, self.managers)
        assert one == other
        for manager in self.managers:
            manager.check()


def forget(pool, block, key):
    block.reset_hash()


def rename(pool, block, key):
    block.reset_hash()
    block.block_hash = key


def name(pool, block, key):
    block.block_hash = key


def enter(pool, block, key):
    """A block that a request holds is the request's to enter."""
    if block.ref_cnt == 0 and not pool.cached_block_hash_to_block.holds(block):
        block.reset_hash()
        block.block_hash = key
        pool.cached_block_hash_to_block.insert(key, block)


def take_out(pool, block, key):
    popped = pool.cached_block_hash_to_block.pop(key, block.block_id)
    return popped and popped.block_id


def ask(pool, block, key):
    found = pool.cached_block_hash_to_block.get_one_block(key)
    return found and found.block_id


def empty(pool, block, key):
    pool.cached_block_hash_to_block.clear()


CHANGES = [forget, rename, name, enter, take_out, take_out, ask, empty]
MODELS = {"full": [full(SIZE)], "window": [full(SIZE), window(SIZE, 2 * SIZE)]}


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(12))
def test_both_indexes_go_on_alike_whatever_is_changed_by_hand(model, seed):
    rng = np.random.default_rng(seed)
    pair = Pair(MODELS[model], rng)
    for step in range(120):
        draw = rng.random()
        if draw < 0.35:
            pair.by_hand(CHANGES[rng.integers(len(CHANGES))])
        elif draw < 0.6:
            pair.admit(f"r{step}")
        elif draw < 0.75 and pair.running:
            pair.append()
        elif draw < 0.92 and pair.running:
            pair.free(pair.running[rng.integers(len(pair.running))])
        elif draw < 0.97:
            ids = {int(i) for i in rng.integers(1, NUM_BLOCKS, 3)}
            pair.both(lambda manager, _, ids=ids: manager.evict_blocks(ids))
        else:
            while pair.running:
                pair.free(pair.running[0])
            pair.both(lambda manager, _: manager.reset_prefix_cache())
        pair.compare()
