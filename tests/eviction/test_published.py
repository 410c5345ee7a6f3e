"""Policies beside published implementations of them, as caches of keys, key by key.

A pool is the cache that `caches.py` states. What is published is that cache with its few differences undone.
"""

from functools import cache
from random import Random
from types import SimpleNamespace

import pytest
from eviction.caches import CACHES, S3Fifo
from eviction.keys import hash_of, key_of

from kvgpu.block_pool import BlockPool
from kvgpu.replay.traces.workload import conversations

LENGTH = 8000
FIRST_SCANNED = 1_000_000


def zipf_and_scans():
    """Keys of which few are popular, among runs of keys that come once or twice."""
    rng = Random(1)
    weights = [1 / (rank + 1) ** 0.9 for rank in range(2000)]
    keys = []
    while len(keys) < LENGTH:
        keys += rng.choices(range(2000), weights, k=rng.randint(50, 400))
        start = FIRST_SCANNED + rng.randint(0, 3000)
        keys += range(start, start + rng.randint(1, 150))
    return keys[:LENGTH]


def chats():
    """Blocks of the prompts of conversations."""
    return conversations().ids[:LENGTH].tolist()


TRACES = {"zipf and scans": (zipf_and_scans, (100, 305)), "chats": (chats, (300, 1000))}
"""Keys, and sizes of the cache."""

every_case = pytest.mark.parametrize(
    ("trace", "capacity"), [(name, size) for name, (_, sizes) in TRACES.items() for size in sizes]
)


@cache
def keys_of(trace):
    return tuple(TRACES[trace][0]())


@cache
def hits_of_pool(policy, trace, capacity):
    """Whether each key is found in a pool that takes, caches and frees one block at a time."""
    pool = BlockPool(capacity + 1, True, 16, backend="host")
    pool.set_eviction(policy)
    hits = []
    for key in keys_of(trace):
        block_hash = hash_of(key)
        blocks = pool.get_cached_block(block_hash, [0])
        hits.append(blocks is not None)
        if blocks is None:
            blocks = pool.get_new_blocks(1)
            request = SimpleNamespace(request_id="r", block_hashes=[block_hash])
            pool.cache_full_blocks(request, blocks, 0, 1, 16, 0)
        else:
            pool.touch(blocks)
        pool.free_blocks(blocks)
    return hits


def hits_of_cache(policy, trace, capacity, as_published):
    found = CACHES[policy](capacity, as_published)
    return [found.get(key if as_published else key_of(key)) for key in keys_of(trace)]


def hits_of_libcachesim(name, trace, capacity, parameters=""):
    """Whether each key is found by an implementation of libcachesim."""
    simulated = pytest.importorskip("libcachesim").libcachesim_python
    made = getattr(simulated, f"{name}_init")
    size = simulated.CommonCacheParams(
        cache_size=capacity, default_ttl=10**9, hashpower=16, consider_obj_metadata=False
    )
    found, request = (made(size, parameters) if parameters else made(size)), simulated.Request()
    request.obj_size, hits = 1, []
    for key in keys_of(trace):
        request.obj_id = key + 1
        hits.append(bool(found.get(request)))
    return hits


def share(count, capacity):
    """A ratio that makes so many keys of a capacity, whatever is rounded."""
    return (count + 0.001) / capacity


def published_hits(policy, trace, capacity):
    """Hits of the implementation in libcachesim that is the same policy."""
    s3fifo = S3Fifo(capacity, as_published=True)
    name, parameters = {
        "lru": ("LRU", ""),
        "slru": ("SLRU", "seg-size=1:4"),
        # With equal sizes and costs, greedy dual by size and frequency is LFU with dynamic ageing.
        "lfu": ("GDSF", ""),
        "s3fifo": (
            "S3FIFO",
            f"small-size-ratio={share(s3fifo.share, capacity)},"
            f"ghost-size-ratio={share(s3fifo.num_ghosts, capacity)},move-to-main-threshold=2",
        ),
        "arc": ("ARC", ""),
        "tinylfu": ("WTinyLFU", f"main-cache=LRU,window-size={share(1, capacity)}"),
    }[policy]
    return hits_of_libcachesim(name, trace, capacity, parameters)


@every_case
@pytest.mark.parametrize("policy", CACHES)
def test_a_pool_hits_what_the_plain_cache_hits(policy, trace, capacity):
    assert hits_of_pool(policy, trace, capacity) == hits_of_cache(policy, trace, capacity, as_published=False)


@every_case
@pytest.mark.parametrize("policy", CACHES)
def test_as_published_the_plain_cache_hits_what_libcachesim_hits(policy, trace, capacity):
    expected = published_hits(policy, trace, capacity)
    assert hits_of_cache(policy, trace, capacity, as_published=True) == expected


@pytest.mark.parametrize("policy", [name for name in CACHES if name != "lru"])
def test_what_differs_shows_in_the_hits(policy):
    trace, capacity = "zipf and scans", 100
    as_published = hits_of_cache(policy, trace, capacity, as_published=True)
    assert hits_of_cache(policy, trace, capacity, as_published=False) != as_published


@every_case
def test_least_recently_used_first_is_that_of_libcachesim(trace, capacity):
    assert hits_of_pool("lru", trace, capacity) == published_hits("lru", trace, capacity)


@every_case
def test_least_recently_used_first_is_that_of_cachetools(trace, capacity):
    found = pytest.importorskip("cachetools").LRUCache(capacity)
    expected = []
    for key in keys_of(trace):
        expected.append(key in found)
        found[key] = found.get(key)
    assert hits_of_pool("lru", trace, capacity) == expected


@pytest.mark.parametrize(
    ("trace", "capacity", "tolerance"),
    [("zipf and scans", 100, 0.03), ("zipf and scans", 305, 0.025), ("chats", 300, 0.01), ("chats", 1000, 0.005)],
)
def test_tinylfu_hits_about_what_libcachesim_hits(trace, capacity, tolerance):
    """Estimates depend on the hash functions of the two, which differ; least recently used first is not as near."""
    expected = sum(published_hits("tinylfu", trace, capacity))
    assert sum(hits_of_pool("tinylfu", trace, capacity)) == pytest.approx(expected, rel=tolerance)
    assert sum(hits_of_pool("lru", trace, capacity)) != pytest.approx(expected, rel=1.5 * tolerance)


@every_case
@pytest.mark.parametrize("policy", ["tail-first", "cost", "queue-aware"])
def test_where_all_blocks_begin_prompts_and_none_waits_others_are_least_recently_used_first(policy, trace, capacity):
    assert hits_of_pool(policy, trace, capacity) == hits_of_pool("lru", trace, capacity)
