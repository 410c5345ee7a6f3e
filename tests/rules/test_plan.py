"""What a plan refuses, all with one error, and what it makes of numbers that are written otherwise."""

import numpy as np
import pytest

from kvgpu.errors import ConfigError
from kvgpu.layout import MAX_GROUP_ID
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA, SLIDING_WINDOW

RULE = HitRule(FULL, 16, 16)

NUMBERS = [None, "16", 16.0, float("nan"), True, [16], -1, -(2**63), 2**31, 2**63, 2**70]
RULES = [
    *(RULE._replace(kind=kind) for kind in (*NUMBERS, 4)),
    *(RULE._replace(block_size=size) for size in (*NUMBERS, 0, 2**30)),
    *(RULE._replace(alignment=alignment) for alignment in (*NUMBERS, 0)),
    *(HitRule(SLIDING_WINDOW, 16, 16, False, extent) for extent in (*NUMBERS, 2**31 - 1)),
    HitRule(CHUNKED_LOCAL, 16, 16, False, 0),
    *(RULE._replace(drop=drop) for drop in (None, "no", 2, -1, 0.0)),
    None,
    16,
    (FULL, 16, 16, False, 0),
]
QUERIES = [
    *(HitQuery(rule, (0,)) for rule in RULES),
    *(HitQuery(RULE, groups) for groups in (None, 0, "0", (), (None,), ("0",), (0.0,), (True,))),
    *(HitQuery(RULE, (group,)) for group in (-1, MAX_GROUP_ID + 1, 2**70)),
    *(HitQuery(RULE, (0,), stride) for stride in (*NUMBERS, 0, 3, 32)),
    RULE,
    None,
]


@pytest.mark.parametrize("query", QUERIES, ids=repr)
def test_a_query_that_cannot_be_computed_is_refused(query):
    with pytest.raises(ConfigError):
        PrefixPlan((query,))


@pytest.mark.parametrize("queries", [None, 5, "queries", (), RULE, HitQuery(RULE, (0,))], ids=repr)
def test_a_plan_needs_a_tuple_of_queries(queries):
    with pytest.raises(ConfigError):
        PrefixPlan(queries)


def test_lists_and_numbers_of_numpy_are_taken():
    plain = PrefixPlan((HitQuery(HitRule(SLIDING_WINDOW, 16, 32, True, 3), (0, 1), 2),))
    rule = HitRule(*map(np.int64, (SLIDING_WINDOW, 16, 32)), np.True_, np.int32(3))
    other = PrefixPlan([HitQuery(rule, [np.int64(0), np.int64(1)], np.int64(2))])
    assert other == plain
    assert hash(other) == hash(plain)
    assert other.words.tolist() == plain.words.tolist()


@pytest.mark.parametrize(
    "rule",
    [
        HitRule(FULL, 2**30 - 1, 2**31 - 1, True),
        HitRule(SLIDING_WINDOW, 1, 1, False, 2**31 - 2),
        HitRule(CHUNKED_LOCAL, 1, 1, False, 1),
        HitRule(MAMBA, 1, 1),
    ],
    ids=str,
)
def test_the_largest_and_the_smallest_numbers_are_taken(rule):
    assert PrefixPlan((HitQuery(rule, (MAX_GROUP_ID,)),)).groups == (MAX_GROUP_ID,)
