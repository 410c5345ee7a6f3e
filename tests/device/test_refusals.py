"""Arguments that a table refuses before it starts anything: the error is typed, and nothing has changed."""

import numpy as np
import pytest
from support.device.tables import DEVICE, ids, make_table, random_keys, to_device, torch

from kvgpu.device import tensors
from kvgpu.device.block_hash_table import ONE_GROUP, BlockHashTable
from kvgpu.errors import ArgumentError, ConfigError, DeviceError
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

KEYS = random_keys(4)
NEW = ids(4, 5, 6, 7)
OFFSETS = to_device(np.array([0, 2, 4]))


class Broken:
    """Says that it can be exported, and cannot."""

    def __dlpack__(self, **options):
        raise BufferError("read-only")

    def __dlpack_device__(self):
        return (1, 0)


@pytest.fixture(scope="module")
def filled():
    table = make_table(8, seed=5)
    table.update(KEYS, ids(0, 1, 2, 3))
    return state(table)


@pytest.fixture
def table(filled):
    """Blocks 0 to 3 under four keys."""
    table = make_table(8, seed=5)
    for part, content in zip(state_of(table), filled, strict=True):
        part.copy_(content)
    return table


def state_of(table):
    return table.view.words, table.view.records, table.view.meta


def state(table):
    return [part.clone() for part in state_of(table)]


def prefix(table, keys=KEYS, offsets=OFFSETS, plan=ONE_GROUP, longest=2, **options):
    return table.longest_prefix_async(keys, offsets, plan, longest=longest, **options)


def spread(table, name):
    """Buffers of which one is a single line, expanded."""
    out = table.prefix_buffers(2, 4)
    one = getattr(out, name).flatten()[:1]
    return out._replace(**{name: one.expand(getattr(out, name).shape)})


def of_table(table, dtype, *shape):
    """Memory of the table itself, of a shape that is wanted."""
    count = int(np.prod(shape))
    return table.view.words.view(dtype).flatten()[:count].view(shape)


BAD_KEYS = {
    "strings": np.array([["a"] * 4]),
    "objects": np.array([[None] * 4], object),
    "unsigned": np.zeros((4, 4), np.uint64),
    "foreign bytes": np.zeros((4, 4), ">i8"),
    "backwards": np.zeros((4, 4), np.int64)[::-1],
    "every other": np.zeros((8, 4), np.int64)[::2],
    "expanded": torch.zeros(1, 4, dtype=torch.int64, device=DEVICE).expand(4, 4),
    "sparse": torch.zeros(4, 4, dtype=torch.int64, device=DEVICE).to_sparse(),
    "bits": torch.zeros(4, 32, dtype=torch.bool, device=DEVICE),
    "flat": torch.zeros(16, dtype=torch.int64, device=DEVICE),
    "a scalar": np.int64(3),
    "broken": Broken(),
}
BAD_GROUPS = {
    "a bool": True,
    "a NumPy bool": np.True_,
    "a float": 1.0,
    "a NumPy float": np.float64(1),
    "negative": -1,
    "too large": np.int64(2**31),
    "huge": 2**70,
    "text": "0",
    "floats": torch.zeros(4, device=DEVICE),
    "expanded": ids(0).expand(4),
    "too few": ids(0, 0, 0),
}
BAD_VECTORS = {
    "wide": to_device([4, 5, 6, 7]),
    "short": ids(4, 5, 6),
    "two-dimensional": ids(4, 5, 6, 7)[:, None],
    "elsewhere": torch.zeros(4, dtype=torch.int32, device="meta"),
    "expanded": ids(4).expand(4),
    "a list": [4, 5, 6, 7],
    "a number": 4,
    "backwards": np.arange(4, dtype=np.int32)[::-1],
}


def changes(**bad):
    """Calls that change a table, with one bad argument."""
    given = {"keys": KEYS, "new": NEW, "groups": 0} | bad
    keys, new, groups, old = given["keys"], given["new"], given["groups"], given.get("old")
    calls = [
        lambda table: table.update(keys, new, groups, old=old),
        lambda table: table.update_async(keys, new, groups, old=old, validate=False),
    ]
    if old is None:
        calls += [
            lambda table: table.rebuild(keys, new, groups),
            lambda table: table.rebuild_async(keys, new, groups, validate=False),
        ]
    return calls


CHANGES = [
    pytest.param(call, id=f"{argument}: {name}, call {i}")
    for argument, values in {"keys": BAD_KEYS, "groups": BAD_GROUPS, "new": BAD_VECTORS, "old": BAD_VECTORS}.items()
    for name, value in values.items()
    for i, call in enumerate(changes(**{argument: value}))
]

LOOKUPS = {
    **{f"find, keys: {n}": lambda t, v=v: t.find(v) for n, v in BAD_KEYS.items()},
    **{f"find, groups: {n}": lambda t, v=v: t.find(KEYS, v) for n, v in BAD_GROUPS.items()},
    **{f"find, out: {n}": lambda t, v=v: t.find(KEYS, out=v) for n, v in BAD_VECTORS.items()},
    "find into keys": lambda t: t.find(KEYS, out=KEYS.view(torch.int32).flatten()[:4]),
    "find into groups": lambda t: t.find(KEYS, NEW, out=NEW),
    "find into the table": lambda t: t.find(KEYS, out=of_table(t, torch.int32, 4)),
    "contains into ids": lambda t: t.contains(KEYS, out=NEW),
    "contains into an expanded": lambda t: t.contains(
        KEYS, out=torch.zeros(1, dtype=torch.bool, device=DEVICE).expand(4)
    ),
    "contains into the table": lambda t: t.contains(KEYS, out=of_table(t, torch.bool, 4)),
    "offsets of floats": lambda t: prefix(t, offsets=torch.zeros(3, device=DEVICE)),
    "a triple of offsets": lambda t: prefix(t, offsets=(OFFSETS, OFFSETS, OFFSETS)),
    "begins without ends": lambda t: prefix(t, offsets=(OFFSETS[:-1], OFFSETS)),
    "no offsets": lambda t: prefix(t, offsets=None),
    "no plan": lambda t: prefix(t, plan=None),
    "a query for a plan": lambda t: prefix(t, plan=ONE_GROUP.queries),
    "longest below 0": lambda t: prefix(t, longest=-1),
    "longest a bool": lambda t: prefix(t, longest=True),
    "longest a float": lambda t: prefix(t, longest=2.0),
    "longest beyond 64 bits": lambda t: prefix(t, longest=2**64),
    "null_id beyond 32 bits": lambda t: prefix(t, null_id=2**31),
    "null_id below 32 bits": lambda t: prefix(t, null_id=-(2**31) - 1),
    "null_id a float": lambda t: prefix(t, null_id=0.0),
    "limits of int32": lambda t: prefix(t, max_lengths=ids(1, 2)),
    "one limit": lambda t: prefix(t, max_lengths=5),
    "buffers of None": lambda t: prefix(t, out=(None,) * 5),
    "buffers without hits": lambda t: prefix(t, out=t.prefix_buffers(2, 4)._replace(hits=None)),
    "ids and hits in one": lambda t: prefix(t, out=(b := t.prefix_buffers(2, 4))._replace(ids=b.hits)),
    "hits in the table": lambda t: prefix(t, out=t.prefix_buffers(2, 4)._replace(hits=of_table(t, torch.int32, 1, 4))),
    **{
        f"expanded {name}": lambda t, name=name: prefix(t, out=spread(t, name))
        for name in ("num_tokens", "firsts", "ids", "hits")
    },
    "-1 requests": lambda t: t.prefix_buffers(-1, 4),
    "-1 keys": lambda t: t.prefix_buffers(1, -4),
    "half a request": lambda t: t.prefix_buffers(0.5, 4),
    "buffers for text": lambda t: t.prefix_buffers("1", 4),
    "buffers for no plan": lambda t: t.prefix_buffers(1, 4, "full"),
    "a stream that is none": lambda t: t.find(KEYS, stream=object()),
    "a negative stream": lambda t: t.size(stream=-1),
    "a stream of text": lambda t: t.items(stream="0"),
    "a stream that is a bool": lambda t: t.check(stream=True),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_with_a_bad_argument_changes_nothing(table, change):
    before = state(table)
    with pytest.raises(ArgumentError):
        change(table)
    assert all(torch.equal(a, b) for a, b in zip(before, state(table), strict=True))


@pytest.mark.parametrize("lookup", LOOKUPS)
def test_a_lookup_with_a_bad_argument_changes_nothing(table, lookup):
    before = state(table)
    with pytest.raises(ArgumentError):
        LOOKUPS[lookup](table)
    assert all(torch.equal(a, b) for a, b in zip(before, state(table), strict=True))


def test_numbers_of_numpy_are_numbers(table):
    assert table.find(KEYS, np.int64(0)).tolist() == [0, 1, 2, 3]
    out = prefix(table, longest=np.int32(2), null_id=np.int64(7))
    assert out.num_tokens.tolist() == [2, 2]


def test_read_only_and_unaligned_keys_are_copied(table):
    fixed = KEYS.cpu().numpy().copy()
    fixed.flags.writeable = False
    assert table.find(fixed).tolist() == [0, 1, 2, 3]
    shifted = torch.cat([KEYS.flatten()[:1], KEYS.flatten()])[1:].view(4, 4)
    assert table.find(shifted).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("limit", [-1, -(2**31), -(2**32) + 2, -(2**63)])
def test_a_limit_below_0_is_0(table, limit):
    limits = to_device(np.array([limit, 2**63 - 1]))
    assert prefix(table, max_lengths=limits).num_tokens.tolist() == [0, 2]


def test_offsets_whose_difference_overflows_are_refused(table):
    offsets = to_device([-(2**63)]), to_device([2**63 - 1])
    with pytest.raises(ArgumentError, match="offsets"):
        table.longest_prefix(KEYS, offsets)


def test_more_than_there_is_memory_for_is_a_device_error(table):
    with pytest.raises(DeviceError, match="memory"):
        table.prefix_buffers(1, 2**60)


@pytest.mark.parametrize(
    "options",
    [
        {"num_blocks": 8.0},
        {"num_blocks": True},
        {"num_blocks": "8"},
        {"num_blocks": 2**70},
        {"key_bytes": 16.0},
        {"key_bytes": None},
        {"load_factor": float("nan")},
        {"load_factor": "0.5"},
        {"load_factor": True},
        {"load_factor": 1e-300},
        {"seed": 2**63},
        {"seed": 1.5},
        {"engine": None},
        {"engine": ["triton"]},
        {"device": "nonsense"},
        {"device": 3.5},
    ],
    ids=str,
)
def test_a_table_that_cannot_be_is_refused(options):
    with pytest.raises((ConfigError, DeviceError)):
        BlockHashTable(**({"num_blocks": 8} | options))


WAITING = {
    "update": lambda t: t.update(KEYS, NEW),
    "rebuild": lambda t: t.rebuild(KEYS, NEW),
    "clear": lambda t: t.clear(),
    "find": lambda t: t.find(KEYS),
    "contains": lambda t: t.contains(KEYS),
    "longest_prefix": lambda t: t.longest_prefix(KEYS, OFFSETS),
    "size": lambda t: t.size(),
    "items": lambda t: t.items(),
    "check": lambda t: t.check(),
    "numpy arrays": lambda t: t.find_async(KEYS.cpu().numpy()),
    "a new plan": lambda t: t.prefix_buffers(1, 4, PrefixPlan((HitQuery(HitRule(FULL, 3, 3), (0,)),))),
}


@pytest.mark.parametrize("call", WAITING)
def test_what_waits_is_refused_in_a_capture_before_it_starts(table, call, monkeypatch):
    before = state(table)
    with monkeypatch.context() as patch:
        patch.setattr(tensors, "is_capturing", lambda device: True)
        with pytest.raises(ArgumentError, match="capture"):
            WAITING[call](table)
    assert all(torch.equal(a, b) for a, b in zip(before, state(table), strict=True))
