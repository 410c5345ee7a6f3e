"""What a policy of eviction is told by the queue of free blocks, whose first member is always taken first.

A policy puts in front what it wants evicted next, just before blocks are taken, and is told what it needs to know for
that. Least recently used first is the order of the queue itself: then nobody is told anything.

The policy is named by the address of its words, of which the first `NUM_EVENTS` are addresses of its code for each
event. Each takes the address of the words, and two numbers.
"""

from typing import Any

from kvgpu.blocks.free_order import POLICY
from kvgpu.compiled.jit import call_code, jit, leaf, word_from

TAKEN, FREED, TOUCHED, CACHED, NUM_EVENTS = range(5)
"""Events, and the numbers that come with them.

TAKEN: so many blocks, which must be free, are about to be taken: they are put in front. FREED: blocks have got the
slots of these numbers, from the first up to the second. TOUCHED: requests have hit blocks: address of their ids, int32,
and how many. CACHED: blocks have got a key: address of their ids, int32, and their count with `FIRST_PLACE` times the
place that the first of them has in its request.
"""

FIRST_PLACE = 1 << 32


@leaf
def tell_policy(queue_words: Any, event: int, first: int, second: int) -> None:
    """Tell the policy of a queue of an event, if the queue has one."""
    address = queue_words[POLICY]
    if address != 0:
        call_code(word_from(address + 8 * event), address, first, second)


@jit
def note_cached(queue_words: Any, ids: Any, first_place: int) -> None:
    """Tell of `CACHED`, for callers in Python; `ids` are int32 [n], of a request's blocks from a place on."""
    tell_policy(queue_words, CACHED, ids.ctypes.data, FIRST_PLACE * first_place + len(ids))
