"""Random calls to the map of keys to blocks: its entries are always those of a dict of dicts."""

from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import per_backend
from support.pools import make_coarse_key, make_key

from kvgpu.block_pool import BlockPool
from kvgpu.blocks.state import KVCacheBlock

NUM_BLOCKS = 12
KEYS = [make_key(1), make_key(2), make_key(1, group=4), b"10", make_coarse_key(1, 2)]
actions = st.lists(
    st.tuples(st.sampled_from(["enter", "stranger", "pop"]), st.integers(0, 11), st.sampled_from(KEYS)), max_size=30
)


@per_backend
@settings(max_examples=80, deadline=None)
@given(actions=actions)
def test_random_calls_give_the_entries_of_a_dict_of_dicts(backend, actions):
    pool = BlockPool(NUM_BLOCKS, True, 16, backend=backend)
    map, model, shared = pool.cached_block_hash_to_block, {}, set()
    pool.state.adopt_width(32)
    for name, number, key in actions:
        blocks = model.setdefault(key, {})
        if name == "pop":
            popped = map.pop(key, number)
            assert popped is blocks.pop(number, None)
            if popped is not None and popped._state is pool.state:
                popped.reset_hash()
        elif number not in blocks:
            block = pool.blocks[number] if name == "enter" else KVCacheBlock(number)
            if block.block_hash is None:
                block.block_hash = key
                map.insert(key, block)
                blocks[number] = block
        shared = {k for k in shared | {key} if model[k] and (k in shared or len(model[k]) > 1)}
        expected = {
            k: dict(found) if k in shared else next(iter(found.values())) for k, found in model.items() if found
        }
        assert dict(map._cache) == expected
        assert len(map) == len(expected)
    pool.check()
