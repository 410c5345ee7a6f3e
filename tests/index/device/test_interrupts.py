"""An index on a device that is interrupted between any two steps of a lookup: nothing is taken for sent."""

import pytest
from support.device.tables import torch  # noqa: F401 - skips where PyTorch is missing
from support.indexes import erase, insert, make_index, random_rows

from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.device.index import DeviceIndex
from kvgpu.index.device.prepared_lookup import PreparedLookup, PreparedLookups
from kvgpu.index.host import index as host
from kvgpu.index.journal import Journal
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

PLAN = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))
SPANS = RequestSpans.in_arena([0], [3], [3])
STEPS = [
    (Journal, "take"),
    (HashArena, "take_written"),
    (DeviceIndex, "_moved"),
    (BlockHashTable, "update_async"),
    (PreparedLookups, "spans_for"),
    (PreparedLookup, "run"),
    (PreparedLookup, "found"),
]


def interrupt(monkeypatch, owner, name, error, after):
    """The next call of a function is interrupted: before it has done anything, or after it has done all."""
    real, errors = getattr(owner, name), [error]

    def once(*arguments, **options):
        if errors and not after:
            raise errors.pop()
        result = real(*arguments, **options)
        if errors:
            raise errors.pop()
        return result

    monkeypatch.setattr(owner, name, once)


@pytest.fixture
def arena():
    arena = HashArena(3)
    arena.words[:] = random_rows(3)
    return arena


@pytest.fixture
def index(arena):
    index = make_index("triton", 8)
    insert(index, [1, 2, 3], random_rows(3))
    assert hits(index, arena) == [3]
    return index


def hits(index, arena):
    return index.match_batch(PLAN, arena, SPANS).num_tokens.tolist()


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(), MemoryError()], ids=repr)
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
@pytest.mark.parametrize(("owner", "name"), STEPS, ids=[name for _, name in STEPS])
def test_an_interrupted_lookup_loses_nothing(index, arena, monkeypatch, owner, name, after, error):
    erase(index, 2)
    arena.words[2] = random_rows(5)[4]
    arena.wrote(2, 3)
    insert(index, [4], random_rows(5)[1])
    interrupt(monkeypatch, owner, name, error, after)
    with pytest.raises((type(error), RuntimeError)):
        hits(index, arena)
    assert hits(index, arena) == [2]
    index.check()


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_an_interrupted_rebuild_is_made_again(arena, monkeypatch, after):
    index = make_index("triton", 8)
    insert(index, [1, 2, 3], random_rows(3))
    interrupt(monkeypatch, BlockHashTable, "rebuild_async", KeyboardInterrupt(), after)
    with pytest.raises(KeyboardInterrupt):
        hits(index, arena)
    assert hits(index, arena) == [3]
    index.check()


def test_changes_that_are_given_up_while_the_copy_is_behind_are_not_lost(index, arena, monkeypatch):
    """More changes than blocks: the notes are thrown away, and the whole copy with them."""
    interrupt(monkeypatch, Journal, "discard", KeyboardInterrupt(), after=True)
    erase(index, 2)
    with pytest.raises(KeyboardInterrupt):
        index.log_for(100)
    assert hits(index, arena) == [1]
    index.check()


def test_a_reset_that_is_interrupted_leaves_no_block_on_the_device(index, arena, monkeypatch):
    interrupt(monkeypatch, host.HostIndex, "clear", KeyboardInterrupt(), after=True)
    with pytest.raises(KeyboardInterrupt):
        index.clear()
    index.state.forget_keys()
    index.state.adopt_width(32)
    assert hits(index, arena) == [0]
    index.check()


def test_a_failure_with_notes_left_does_not_apply_them_twice(index, arena, monkeypatch):
    erase(index, 2)
    interrupt(monkeypatch, DeviceIndex, "_follow", RuntimeError("lost"), after=True)
    with pytest.raises(RuntimeError, match="lost"):
        hits(index, arena)
    assert [hits(index, arena) for _ in range(2)] == [[1], [1]]
    index.check()
