"""Nothing is compiled while an index serves: kernels that a first batch has compiled answer batches of every size."""

import numpy as np
import pytest
from support.indexes import insert, make_index, random_rows
from support.ptx import triton_driver

from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, SLIDING_WINDOW

PLAN = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
TWO = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)), HitQuery(HitRule(SLIDING_WINDOW, 1, 1, extent=2), (0,))))
MOST = 70


@pytest.mark.parametrize("width", [16, 32])
def test_batches_of_every_size_are_answered_by_what_the_first_one_compiled(width):
    rows = random_rows(3 * MOST)
    rows[:, width // 8 :] = 0
    index = make_index("triton", 4 * MOST)
    index.state.forget_keys()
    index.state.adopt_width(width)
    arena = HashArena(3 * MOST)
    arena.words[:] = rows

    def look_up(count):
        """So many requests of 0 to 3 hashes, after a flush."""
        insert(index, [count], rows[count - 1])
        begins = np.arange(count) * 3
        ends = begins + np.arange(count) % 4
        for plan in (PLAN, TWO):
            index.match_batch(plan, arena, RequestSpans.in_arena(begins, ends, 2**20))
            index.start_batch(plan, arena, RequestSpans.in_arena(begins, ends, 2**20))

    look_up(2)
    before = triton_driver.compilations()
    for count in [1, *range(3, MOST + 1)]:
        look_up(count)
    assert triton_driver.compilations() == before > 0
