"""The decide kernel against the rules in plain Python, on hits that no table has to hold."""

import numpy as np
import pytest
from support.device.tables import DEVICE, POISON, make_table, to_device, torch

from kvgpu.kernels.longest_prefix import DECIDE_TILE, launch_decide
from kvgpu.rules.hits import decide
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW

NULL = 9_999


def launch(plan, hits, offsets, max_lengths, with_ids=True):
    """num_tokens, firsts, lengths, furthest, ids of hits int32 [lines, keys], as numpy arrays."""
    table = make_table(2)
    requests, num_keys = len(offsets) - 1, hits.shape[1]
    out = table.prefix_buffers(requests, num_keys, plan, with_ids)
    out = type(out)(*(None if b is None else b.fill_(POISON) for b in out))
    out = out._replace(hits=to_device(hits))
    spans = to_device(offsets)
    longest = int(np.diff(offsets).max(initial=0))
    launch_decide(table.view, to_device(plan.words), spans[:-1], spans[1:], to_device(max_lengths), out, longest, NULL)
    assert table.size() == 0
    return [None if b is None else b.cpu().numpy() for b in out[:5]]


def expected(plan, hits, max_length):
    """The same of one request in plain Python: (tokens, firsts, lengths, furthest, ids per line)."""
    found, firsts, lengths, furthest = decide(
        plan, lambda q, _, place: bool(hits[plan.lines[q], place].min() >= 0), hits.shape[1], max_length
    )
    ids = np.full(hits.shape, -1, np.int32)
    for q, query in enumerate(plan.queries):
        for line in range(plan.lines[q].start, plan.lines[q].stop):
            blocks = hits[line, query.stride - 1 :: query.stride][: lengths[q]]
            ids[line, : lengths[q]] = blocks
            ids[line, : firsts[q]] = NULL
    return found, firsts, lengths, furthest, ids


def random_rule(rng, kind, size, alignment, eagle):
    window = kind == SLIDING_WINDOW
    extent = int(rng.integers(0, 6)) if window else size * int(rng.integers(1, 5))
    if kind == CHUNKED_LOCAL:
        return HitRule(kind, size, size, False, extent)
    return HitRule(kind, size, alignment, eagle, extent)


def random_plan(rng):
    """One query of any kind, or several that must agree, full attention first."""
    if rng.random() < 0.5:
        kind, size = int(rng.integers(4)), int(rng.choice([1, 2, 16]))
        alignment = size * int(rng.choice([1, 1, 2, 3]))
        rule = random_rule(rng, kind, size, alignment, rng.random() < 0.4)
        groups = tuple(range(int(rng.integers(1, 4))))
        return PrefixPlan((HitQuery(rule, groups),), bool(rng.random() < 0.5))
    strides = [int(s) for s in rng.choice([1, 2, 4], int(rng.integers(2, 5)))]
    alignment = 16 * int(np.lcm.reduce(strides))
    kinds = sorted(int(k) for k in rng.choice([FULL, FULL, SLIDING_WINDOW, MAMBA], len(strides)))
    queries = []
    for place, (kind, stride) in enumerate(zip(kinds, strides, strict=True)):
        rule = random_rule(rng, kind, 16 * stride, alignment, rng.random() < 0.5)
        queries.append(HitQuery(rule, (place,) * int(rng.integers(1, 3)), stride))
    return PrefixPlan(tuple(queries), bool(rng.random() < 0.5))


def random_batch(rng, plan):
    """Hits of a few requests, mostly hits; lengths around the width of a tile."""
    lengths = rng.choice([0, 1, 2, 7, 20, 33, DECIDE_TILE, DECIDE_TILE + 9], 6)
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    hits = rng.integers(1, 1000, (len(plan.groups), int(offsets[-1]))).astype(np.int32)
    hits[rng.random(hits.shape) < rng.choice([0.0, 0.02, 0.2, 0.6])] = -1
    size = plan.hash_block_size
    max_lengths = np.maximum(0, lengths * size + rng.integers(-3 * size, 2 * size, len(lengths)))
    return hits, offsets, max_lengths.astype(np.int64)


@pytest.mark.parametrize("seed", range(60))
def test_the_kernel_decides_as_the_rules_in_plain_python(seed):
    rng = np.random.default_rng(seed)
    plan = random_plan(rng)
    hits, offsets, max_lengths = random_batch(rng, plan)
    num_tokens, firsts, lengths, furthest, ids = launch(plan, hits, offsets, max_lengths)
    for r, max_length in enumerate(max_lengths.tolist()):
        span = slice(offsets[r], offsets[r + 1])
        mine = expected(plan, hits[:, span], max_length)
        assert (num_tokens[r], firsts[r].tolist(), lengths[r].tolist(), furthest[r]) == mine[:4]
        assert np.array_equal(ids[:, span], mine[4])


def test_without_ids_only_the_lengths_are_written():
    plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
    hits = np.array([[5, 6, -1]], np.int32)
    num_tokens, _, lengths, _, ids = launch(plan, hits, [0, 3], [9], with_ids=False)
    assert (num_tokens.tolist(), lengths.tolist(), ids) == ([2], [[2]], None)


def test_a_request_out_of_range_gets_no_result_and_leaves_a_status():
    plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
    table = make_table(2)
    out = table.prefix_buffers(2, 3, plan)
    out = type(out)(*(b.fill_(POISON) for b in out))
    out.hits[:] = 1
    begins, ends = to_device(np.array([0, 2])), to_device(np.array([2, 4]))
    limits = torch.full((2,), 9, device=DEVICE)
    launch_decide(table.view, to_device(plan.words), begins, ends, limits, out, 3, NULL)
    assert out.num_tokens.tolist() == [2, POISON]
    assert out.ids.tolist() == [[1, 1, POISON]]
    with pytest.raises(ValueError, match="offsets"):
        table.size()


def test_keys_beyond_the_longest_are_not_looked_at():
    plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
    table = make_table(2)
    out = table.prefix_buffers(1, 4, plan)
    out.hits[:] = 1
    begins, ends = to_device(np.array([0])), to_device(np.array([4]))
    limits = torch.full((1,), 9, device=DEVICE)
    launch_decide(table.view, to_device(plan.words), begins, ends, limits, out, 3, NULL)
    assert out.num_tokens.tolist() == [3]
