"""The parts of kvgpu that can be compiled apart from each other, each in a process of its own.

A part changes the state of its process, such as the hash in front of the first block.
"""

import os
from collections.abc import Callable

import numpy as np

from kvgpu.allocation.running_slots import RunningSlots
from kvgpu.allocation.running_tokens import COLUMNS, LIMITS, plan_tokens
from kvgpu.batch.manager import BatchManager
from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
from kvgpu.config.specs import FullAttentionSpec
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.one_chain import prepare_chain
from kvgpu.hashing.request_hasher import RequestBlockHasher
from kvgpu.manager import KVCacheManager
from kvgpu.request import Request
from kvgpu.warmup.requests import PlainRequest

SIZE = 16
PROMPT = 4 * SIZE


def _manager() -> KVCacheManager:
    spec = FullAttentionSpec(block_size=SIZE, num_kv_heads=1, head_size=1, dtype="float32")
    config = KVCacheConfig(32, [], [KVCacheGroupSpec(["layer"], spec)])
    return KVCacheManager(config, 8 * PROMPT, SIZE, SIZE, backend="host")


def _request(name: str = "request") -> PlainRequest:
    return PlainRequest(name, [os.urandom(32) for _ in range(PROMPT // SIZE)], PROMPT, PROMPT)


def compile_calls() -> None:
    """Slots for one request, with its hashes in a list, their return, and slots for all running requests of an engine.

    One part, since these share most of their code: apart, the second would take three times as long.
    """
    manager, request = _manager(), _request()
    manager.allocate_slots(request, PROMPT)
    manager.get_num_common_prefix_blocks(request.request_id)
    slots = RunningSlots(manager.slots)
    slots.enter([request])
    num_computed, num_tokens, num_new = np.array([[PROMPT], [PROMPT + 1], [1]], np.int64)
    slots.allocate(num_computed, num_tokens, num_new)
    plan_tokens(np.zeros((COLUMNS, 1), np.int64), np.zeros(LIMITS, np.int64))
    manager.free(request)
    manager.evict_blocks({1})
    manager.reset_prefix_cache()


def compile_lookups() -> None:
    """The lookup of one request, with its hashes in a list."""
    manager, request = _manager(), _request()
    # The groups give it its blocks, one by one: no code of other parts is used.
    manager.native = manager.slots.arrays = None
    manager.allocate_slots(request, PROMPT)
    manager.get_computed_blocks(PlainRequest("other", request.block_hashes, PROMPT, PROMPT))
    manager.free(request)


def compile_hashes() -> None:
    """Hashes of prompts, by every function that is installed."""
    for name in hashing.HASH_FUNCTIONS:
        hashing.init_none_hash(hashing.get_hash_fn_by_name(name))
        hasher = RequestBlockHasher(SIZE, hashing.get_hash_fn_by_name(name))
        Request("request", [0] * 100 * SIZE, block_hasher=hasher)
    prepare_chain(hashing.sha256, SIZE)


def compile_batches() -> None:
    """Lookups, slots and tokens of many tracked requests at once, and of one whose hashes are in an array."""
    manager = _manager()
    hashing.init_none_hash(hashing.sha256)
    hasher = RequestBlockHasher(SIZE, hashing.sha256)
    alone = Request("alone", [0] * PROMPT, block_hasher=hasher)
    manager.allocate_slots(alone, PROMPT)
    manager.get_computed_blocks(alone)
    manager.get_num_common_prefix_blocks("alone")
    manager.free(alone)
    batch = BatchManager(manager, 4, 100)
    rows = batch.track([Request(name, [0] * PROMPT, block_hasher=hasher) for name in ("first", "second")])
    batch.match(rows)
    batch.allocate_batch(rows, PROMPT)
    for _ in range(SIZE):
        batch.append_batch(rows, np.zeros(2, np.int64))
        batch.allocate_batch(rows, 1)
    batch.sync(rows)
    batch.free_batch(rows)
    batch.untrack(rows)


PARTS: dict[str, Callable[[], None]] = {
    "batches": compile_batches,
    "calls": compile_calls,
    "lookups": compile_lookups,
    "hashes": compile_hashes,
}
"""Name of a part -> what compiles it, the slowest first."""

FOR_VLLM = ("calls", "lookups", "hashes")
"""What the plug-in for vLLM uses."""
