"""Short ways to fill a small pool and to look at it."""

from kvgpu.hashing.functions import BlockHash
from kvgpu.hashing.map_keys import make_block_hash_with_group_id

SIZE = 4
"""Tokens of a hash block."""
NUM_BLOCKS = 10


def make_key(fill=1, group=0, width=32):
    """The key of a block whose hash is this byte, repeated."""
    return make_block_hash_with_group_id(BlockHash(bytes([fill]) * width), group)


def make_coarse_key(*fills, group=0, width=32):
    """The key of a block of several hash blocks."""
    parts = b"".join(bytes([fill]) * width for fill in fills)
    return make_block_hash_with_group_id(BlockHash(parts), group)


def queue_order(queue):
    """Ids of the blocks in a queue, the next to be taken first."""
    return ids(queue.get_all_free_blocks())


def order(pool):
    return queue_order(pool.free_block_queue)


def ids(blocks):
    return [block.block_id for block in blocks]


def cache(pool, request, blocks, start=0, end=None, size=SIZE, group=0, mask=None):
    end = len(blocks) if end is None else end
    pool.cache_full_blocks(request, blocks, start, end, size, group, mask)


def found(pool, request, group=0, stride=1):
    """Which block each logical block of the request leads to; None where it is not cached."""
    hashes = request.block_hashes[:]
    parts = [b"".join(hashes[i : i + stride]) for i in range(0, len(hashes), stride)]
    hits = [pool.get_cached_block(BlockHash(part), [group]) for part in parts]
    return [hit and hit[0].block_id for hit in hits]


def state_of(pool):
    """All that a caller could notice."""
    return (
        [(block.ref_cnt, block.block_hash) for block in pool.blocks],
        order(pool),
        dict(pool.cached_block_hash_to_block._cache),
        list(pool.kv_event_queue),
    )


def kinds(events):
    return [type(event) for event in events]
