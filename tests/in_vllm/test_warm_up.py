"""After the warm-up nothing is compiled or loaded any more, and no model is too odd for it."""

import logging
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.managers import HEADS, chunked, full, make_config, mamba, window

from kvgpu.config.specs import SinkFullAttentionSpec
from kvgpu.vllm.warm_up import warm_up

ROOT = Path(__file__).resolve().parents[2]
KINDS = {
    "full": ((full(4),), {}),
    "window": ((window(4, 8),), {}),
    "full and window": ((full(4), window(4, 8)), {}),
    "blocks of two sizes": ((full(64), window(4, 8)), {"scheduler_block_size": 64, "hash_block_size": 4}),
    "chunked": ((full(4), chunked(4, 8)), {}),
    "sink": ((SinkFullAttentionSpec(4, sink_len=8, **HEADS),), {}),
    "mamba": ((full(4), mamba(4, "align")), {}),
    "events": ((full(4),), {"enable_kv_cache_events": True}),
    "no caching": ((full(4), window(4, 8)), {"enable_caching": False}),
    "EAGLE": ((full(4),), {"use_eagle": True}),
    "a short model": ((full(4),), {"max_model_len": 3}),
}
DEFAULTS = {"max_model_len": 1000, "scheduler_block_size": 4, "hash_block_size": 4, "log_stats": True}

SCRIPT = """
import sys
from numba.core.registry import CPUDispatcher
from in_vllm.test_warm_up import DEFAULTS, KINDS, make_config
from kvgpu.manager import KVCacheManager
from kvgpu.vllm.warm_up import warm_up
from support.managers import make_request

def compiled():
    found = {id(each): each for name, module in list(sys.modules.items()) if name.startswith("kvgpu")
             for each in vars(module).values() if isinstance(each, CPUDispatcher)}
    return {each.__name__: len(each.signatures) for each in found.values()}

specs, options = KINDS[sys.argv[1]]
options = {**DEFAULTS, **options}
requests = [make_request(f"r{turn}", 37, options["hash_block_size"]) for turn in range(3)]
for request in requests:
    request.append_output_token_ids(list(range(9)))
    request.block_hashes = list(request.block_hashes)
warm_up(make_config(*specs), **options)
before = compiled()
manager = KVCacheManager(make_config(*specs, num_blocks=200), **options)
for request in requests:
    manager.new_step_starts()
    blocks, num_hits = manager.get_computed_blocks(request)
    start = max(37, num_hits + 1)
    assert manager.allocate_slots(request, start - num_hits, num_hits, blocks) is not None
    manager.get_num_common_prefix_blocks(request.request_id)
    for request.num_computed_tokens in range(start, 46):
        manager.allocate_slots(request, 1)
        manager.cache_blocks(request, request.num_computed_tokens)
    manager.free(request)
print({name: count for name, count in compiled().items() if count != before.get(name, 0)})
"""


@pytest.mark.parametrize("kind", KINDS)
def test_no_model_is_too_odd(kind, caplog):
    specs, options = KINDS[kind]
    with caplog.at_level(logging.WARNING, "kvgpu"):
        warm_up(make_config(*specs), **{**DEFAULTS, **options})
    assert [record for record in caplog.records if "not warm" in record.message] == []


@pytest.mark.parametrize("kind", ["full", "full and window", "no caching"])
def test_nothing_is_compiled_while_it_serves(kind):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, kind],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "{}", done.stderr


def test_a_manager_that_refuses_is_told_in_the_log(caplog):
    with caplog.at_level(logging.WARNING, "kvgpu"):
        warm_up(make_config(full(4)), **{**DEFAULTS, "max_model_len": 1})
    assert "kvgpu is not warm" in caplog.text
