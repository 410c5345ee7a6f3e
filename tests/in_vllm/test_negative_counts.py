"""Counts below 0, which vLLM comes to now and then: with either manager the same happens."""

import random

import pytest
from in_vllm.oracle import require_vllm

require_vllm()

from in_vllm import engines
from in_vllm.engines import HEADS, SIZE, full, window
from vllm.v1.core.kv_cache_manager import KVCacheManager as ManagerOfVllm
from vllm.v1.kv_cache_interface import ChunkedLocalAttentionSpec

from kvgpu.manager import KVCacheManager
from kvgpu.vllm.manager import make_manager

pytestmark = pytest.mark.filterwarnings("ignore")

MODELS = {
    "full": (full(),),
    "window": (window(),),
    "chunked": (ChunkedLocalAttentionSpec(block_size=SIZE, attention_chunk_size=64, **HEADS),),
    "full and window": (full(), window()),
}


def managers(model):
    options = {"max_model_len": 1000, "scheduler_block_size": SIZE, "hash_block_size": SIZE}
    made = [make(engines.config_of(*MODELS[model]), **options) for make in (ManagerOfVllm, make_manager)]
    assert type(made[1]) is KVCacheManager
    return made


def state_of(manager, request):
    free = [block.block_id for block in manager.block_pool.free_block_queue.get_all_free_blocks()]
    return manager.get_block_ids(request.request_id), free, manager.get_num_common_prefix_blocks(request.request_id)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("seed", range(8))
def test_slots_and_blocks_are_those_of_vllm(model, seed):
    """Calls at random, most of which count less than no tokens."""
    rng = random.Random(seed)
    both = managers(model)
    prompt = [rng.randrange(100) for _ in range(150)]
    request = engines.make_request("a", prompt, engines.hasher_of_vllm(), 100)
    for manager in both:
        request.num_computed_tokens = 0
        assert manager.allocate_slots(request, 70) is not None
    for _ in range(40):
        request.num_computed_tokens = rng.choice([-40, -17, -2, -1, 0, 60, 70])
        num_new = rng.choice([-20, -1, 1, 2, 19])
        options = {"num_lookahead_tokens": rng.choice([0, 2, 30]), "delay_cache_blocks": rng.random() < 0.5}
        given = [manager.allocate_slots(request, num_new, **options) for manager in both]
        assert given[0].get_block_ids() == given[1].get_block_ids()
        num_cached = rng.choice([-30, -1, 10])
        for manager in both:
            manager.cache_blocks(request, num_cached)
        assert state_of(both[0], request) == state_of(both[1], request)
    both[1].check()
    for manager in both:
        manager.free(request)
    assert state_of(both[0], request)[1] == state_of(both[1], request)[1]
