"""Hints of requests: priorities, deadlines and tenants of blocks, which go before or after those of the policy.

Blocks with a priority below `USUAL` are evicted before those that a policy orders, lowest first; those above it after
them. What a tenant has a share for is evicted last, and only for requests of that tenant.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kvgpu.compiled.jit import leaf
from kvgpu.eviction.state.lanes import NO_BLOCK, NOWHERE, drop, first_of, node_of, put_last
from kvgpu.eviction.state.lifetimes import forget_deadline, make_lifetimes, set_deadline
from kvgpu.eviction.state.members import first_free

PRIORITIES = 101
USUAL = 35
"""Priority of a request that says nothing, which TensorRT-LLM has, too."""
UNSET = 0
"""Level of a block that no request has given one; that of others is one more than their priority.

The tenant of a block is 0 for none that has a share."""

FIRST_LANE, TAKER, NUM_EXPIRED, HINT_NUMBERS = range(4)
"""Numbers. FIRST_LANE: of the lists for hints, one for each priority and then one for each tenant; 0 if there are none.
TAKER: the tenant for whose request blocks are taken. NUM_EXPIRED: blocks evicted after their time was over."""


class Hints(NamedTuple):
    """What is known of tenants and deadlines; the node of a block has its level, its tenant, and whether it expired."""

    shares: Any
    """int64 [tenants], blocks that each keeps; that of tenant 0 is 0."""
    numbers: Any
    """int64 [HINT_NUMBERS]."""
    lifetimes: Any
    """`Lifetimes` of the blocks."""


def make_hints(num_blocks: int, first_lane: int, shares: Sequence[int] | None) -> Hints:
    """Make what no request has said anything of yet. O(num_blocks).

    Args:
        num_blocks: Blocks of the pool.
        first_lane: See FIRST_LANE.
        shares: Blocks that tenants 1, 2, ... keep; None if requests give no hints.
    """
    numbers = np.zeros(HINT_NUMBERS, np.int64)
    numbers[FIRST_LANE] = 0 if shares is None else first_lane
    count = 1 if shares is None else num_blocks
    return Hints(np.array([0, *(shares or ())], np.int64), numbers, make_lifetimes(count))


@leaf
def has_hints(pool: Any) -> bool:
    """Return whether requests of this pool may give hints."""
    return bool(pool.hints.numbers[FIRST_LANE] != 0)


@leaf
def in_lane_of_hints(pool: Any, block_id: int) -> bool:
    """Return whether a block is in a list for hints."""
    return has_hints(pool) and bool(node_of(pool.lanes, block_id).lane >= pool.hints.numbers[FIRST_LANE])


@leaf
def _lane_of_tenant(pool: Any, tenant: int) -> int:
    return int(pool.hints.numbers[FIRST_LANE] + PRIORITIES + tenant)


@leaf
def enter_level(pool: Any, block_id: int) -> bool:
    """Place a free block by its priority; return whether that has a list."""
    level = node_of(pool.lanes, block_id).level
    if level in (UNSET, USUAL + 1):
        return False
    put_last(pool.lanes, pool.hints.numbers[FIRST_LANE] + level - 1, block_id)
    return True


@leaf
def enter_share(pool: Any, block_id: int) -> int:
    """Place a cached block that has become free in the list of its tenant, if that has a share.

    Returns:
        The block that has no place yet: the same one, or the oldest of the tenant, which it has driven out.
        NO_BLOCK if there is none.
    """
    hints, node = pool.hints, node_of(pool.lanes, block_id)
    tenant = node.tenant
    if hints.shares[tenant] == 0 or (node.level != UNSET and node.level <= USUAL):
        return block_id
    lane = _lane_of_tenant(pool, tenant)
    put_last(pool.lanes, lane, block_id)
    if pool.lanes.counts[lane] <= hints.shares[tenant]:
        return NO_BLOCK
    oldest = first_of(pool.lanes, lane)
    drop(pool.lanes, oldest)
    return oldest


@leaf
def choose_low(pool: Any) -> int:
    """Return the block to evict before those of the policy, or NO_BLOCK. O(USUAL)."""
    first = pool.hints.numbers[FIRST_LANE]
    for lane in range(first, first + USUAL):
        block_id = first_free(pool, lane)
        if block_id != NO_BLOCK:
            if lane == first:
                pool.hints.numbers[NUM_EXPIRED] += node_of(pool.lanes, block_id).expired
            return block_id
    return NO_BLOCK


@leaf
def choose_high(pool: Any) -> int:
    """Return the block to evict if the policy has none, or NO_BLOCK. O(PRIORITIES + tenants).

    What other tenants keep comes last: who counts free blocks leaves it out, so that it is not needed.
    """
    first, counts = pool.hints.numbers[FIRST_LANE], pool.lanes.counts
    for lane in range(first + USUAL + 1, first + PRIORITIES):
        block_id = first_free(pool, lane)
        if block_id != NO_BLOCK:
            return block_id
    block_id = first_free(pool, _lane_of_tenant(pool, pool.hints.numbers[TAKER]))
    for lane in range(first + PRIORITIES, len(counts)):
        if block_id == NO_BLOCK:
            block_id = first_free(pool, lane)
    return block_id


@leaf
def kept_from(pool: Any, tenant: int) -> int:
    """Return how many free blocks are kept from the requests of a tenant, because others have a share. O(tenants)."""
    kept = 0
    for other in range(1, len(pool.hints.shares)):
        if other != tenant:
            kept += pool.lanes.counts[_lane_of_tenant(pool, other)]
    return int(kept)


@leaf
def forget_hints(pool: Any, block_id: int) -> None:
    """Forget what was said of a block that is evicted, or not cached."""
    if has_hints(pool):
        node = node_of(pool.lanes, block_id)
        node.level, node.tenant, node.expired = UNSET, 0, 0
        forget_deadline(pool.hints.lifetimes, block_id)


@leaf
def expire(pool: Any, block_id: int) -> None:
    """Put a block whose time is over with those of priority 0; one that is in use has no hints any more."""
    node = node_of(pool.lanes, block_id)
    node.level, node.expired = UNSET, 1
    if node.lane != NOWHERE:
        put_last(pool.lanes, pool.hints.numbers[FIRST_LANE], block_id)


@leaf
def hint_block(pool: Any, block_id: int, level: int, deadline: int, tenant: int) -> None:
    """Note what a request that used a block says of it.

    A block has the highest priority of the requests that used it, the latest deadline (0 is later than all others),
    and belongs to the tenant of the first one.
    """
    node, life = node_of(pool.lanes, block_id), pool.hints.lifetimes
    before, until = node.level, life.deadlines[block_id]
    if before != UNSET and (until == 0 or deadline != 0):
        deadline = 0 if until == 0 else max(until, deadline)
    node.level, node.expired = max(before, level), 0
    if node.tenant == 0:
        node.tenant = tenant
    set_deadline(life, block_id, deadline)
