"""What a prefix lookup looks for: a rule, a query for some cache groups, and a plan for all cache groups."""

from dataclasses import dataclass, field, replace
from itertools import takewhile
from math import gcd
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.errors import ConfigError
from kvgpu.integers import MOST_TOKENS, as_option, as_size
from kvgpu.layout import MAX_GROUP_ID, MAX_TOKENS
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, MAMBA

MAX_QUERIES = 62
"""Largest number of queries in a plan: a set of queries is stored as bits of one signed word."""


class HitRule(NamedTuple):
    """A hit rule with its parameters, as the index takes it (facts 28 to 35).

    kind: FULL, SLIDING_WINDOW, CHUNKED_LOCAL or MAMBA. block_size, alignment: in tokens; a hit is a
    multiple of the alignment. drop: whether to leave out the last block, as EAGLE needs. extent: number of
    blocks that a window needs (with `drop`, a hit needs one more), or the tokens of a chunk. unit: tokens of a hash
    block where hits of FULL and MAMBA may end with any of them (B54, B57), of which `drop` leaves out one; 0 where they
    end with a block.
    """

    kind: int
    block_size: int
    alignment: int
    drop: bool = False
    extent: int = 0
    unit: int = 0

    @property
    def ends_inside(self) -> bool:
        """Whether a hit may end inside a block."""
        return 0 < self.unit < self.block_size


@dataclass(frozen=True)
class HitQuery:
    """What to look up in cache groups of equal spec, which must all hit.

    Args:
        rule: What counts as a hit.
        groups: Ids of the groups.
        stride: Number of hash blocks in one block of these groups.
    """

    rule: HitRule
    groups: tuple[int, ...]
    stride: int = 1


def _listed(name: str, values: Any) -> tuple[Any, ...]:
    if not isinstance(values, (tuple, list)):
        raise ConfigError(f"{name}: a tuple is expected, got {type(values).__name__}")
    return tuple(values)


def _checked(query: Any) -> HitQuery:
    """Return the query, after checking that kernels can compute it."""
    if not isinstance(query, HitQuery) or not isinstance(query.rule, HitRule):
        raise ConfigError(f"a HitQuery with a HitRule is expected, got {query!r}")
    rule, groups = query.rule, _listed("groups of a query", query.groups)
    if not groups:
        raise ConfigError(f"a query needs groups: {query}")
    for group in groups:
        as_size("group", group, 0, MAX_GROUP_ID)
    kind = as_size("kind of a rule", rule.kind, FULL, MAMBA)
    size = as_size("block_size of a rule", rule.block_size, 1, MAX_TOKENS - 1)
    as_size("alignment of a rule", rule.alignment)
    as_size("extent of a rule", rule.extent, int(kind == CHUNKED_LOCAL), MOST_TOKENS - 1)
    if not isinstance(rule.drop, (bool, np.bool_)):
        as_size("drop of a rule", rule.drop, 0, 1)
    if size % as_size("stride of a query", query.stride):
        raise ConfigError(f"a block of {size} tokens cannot have {query.stride} hash blocks")
    if as_size("unit of a rule", rule.unit, 0) and (kind not in (FULL, MAMBA) or rule.unit * query.stride != size):
        raise ConfigError(f"hits of {size} tokens a block cannot end after each {rule.unit}: {query}")
    return query if type(query.groups) is tuple else replace(query, groups=groups)


@dataclass(frozen=True)
class PrefixPlan:
    """What to look up for a request in all its cache groups (facts 45 and 46); made once and used many times.

    Args:
        queries: One query per distinct spec, full attention first.
        looks_beyond: Whether a query that drops a block may first look beyond the longest hit allowed, states are never
            dropped, and hits of all full attention are cut (B74, B76). If not, as in vLLM 0.23, a block is dropped even
            if it ends with the prompt, and only the first query's hit is cut.

    Attributes:
        groups: The groups of all queries, in order: each has one line of ids in a result.
        lines: For each query, its slice of `groups`.
        hash_block_size: Tokens per block hash.
        ends_inside: Whether a hit may end inside a block of some group.
        reach: Tokens beyond the longest hit allowed that a lookup may read.
        words: The whole plan for compiled code and kernels, int64, laid out as in kvgpu/rules/plan_words.py and
            followed by `groups`.

    Raises:
        ConfigError: There is no query, or there are too many; a query has no groups; a number is not an integer or is
            out of range (sizes and strides are at least 1, and have 32 bits); or a block is not a multiple of its hash
            blocks.

    Construction is O(groups).
    """

    queries: tuple[HitQuery, ...]
    looks_beyond: bool = False
    reach: int = field(init=False, repr=False, compare=False)
    groups: tuple[int, ...] = field(init=False, repr=False, compare=False)
    hash_block_size: int = field(init=False, repr=False, compare=False)
    ends_inside: bool = field(init=False, repr=False, compare=False)
    lines: tuple[slice, ...] = field(init=False, repr=False, compare=False)
    words: npt.NDArray[np.int64] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        queries = tuple(_checked(query) for query in _listed("queries", self.queries))
        object.__setattr__(self, "queries", queries)
        if not 1 <= len(queries) <= MAX_QUERIES:
            raise ConfigError(f"a plan has 1 to {MAX_QUERIES} queries, got {len(queries)}")
        # After one pass all groups agree: facts 44 and 46.
        one_pass = len(queries) == 1 or (len(queries) == 2 and queries[0].rule.kind == FULL)
        beyond = as_option("looks_beyond", self.looks_beyond)
        units = [each.rule.unit or each.rule.block_size for each in queries]
        margins = [0 if beyond and each.rule.kind == MAMBA else unit for each, unit in zip(queries, units, strict=True)]
        dropping = [margin for each, margin in zip(queries, margins, strict=True) if beyond and each.rule.drop]
        num_full = sum(1 for _ in takewhile(lambda each: each.rule.kind == FULL, queries))
        reach = max(dropping, default=0)
        words: list[int] = [len(queries), one_pass, reach, num_full if beyond else min(num_full, 1)]
        groups: list[int] = []
        lines: list[slice] = []
        for query, margin, unit in zip(queries, margins, units, strict=True):
            rule = query.rule
            step = rule.alignment // gcd(rule.alignment, rule.block_size)
            words += [*map(int, rule[:5]), query.stride, len(groups), len(query.groups), step, margin, unit]
            lines.append(slice(len(groups), len(groups) + len(query.groups)))
            groups += query.groups
        rule, stride = queries[0].rule, queries[0].stride
        object.__setattr__(self, "hash_block_size", rule.block_size // stride)
        object.__setattr__(self, "ends_inside", any(query.rule.ends_inside for query in queries))
        object.__setattr__(self, "reach", reach)
        object.__setattr__(self, "groups", tuple(groups))
        object.__setattr__(self, "lines", tuple(lines))
        object.__setattr__(self, "words", np.array(words + groups, np.int64))
