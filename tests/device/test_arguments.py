"""What a table refuses: shapes, dtypes and devices at once, bad values when it looks; nothing changes."""

import numpy as np
import pytest
from support.device.tables import DEVICE, every_engine, ids, make_table, random_keys, to_device, torch

from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.errors import (
    ArgumentError,
    ArgumentTypeError,
    BlockIdError,
    ConfigError,
    DeviceError,
    InvariantError,
    UnknownNameError,
)
from kvgpu.kernels import longest_prefix
from kvgpu.kernels.longest_prefix import programs_of
from kvgpu.layout import META_SIZE, META_STATUS, OVERFLOW_WORD
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import CHUNKED_LOCAL, FULL, SLIDING_WINDOW


@pytest.fixture
def table():
    table = make_table(8)
    table.update(random_keys(4), ids(0, 1, 2, 3))
    return table


def unchanged(table):
    table.check()
    return table.find(random_keys(5)).tolist() == [0, 1, 2, 3, -1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"num_blocks": 0}, "num_blocks"),
        ({"num_blocks": 2**31}, "num_blocks"),
        ({"num_blocks": 8, "key_bytes": 20}, "key_bytes"),
        ({"num_blocks": 8, "load_factor": 0}, "load_factor"),
        ({"num_blocks": 8, "load_factor": 0.95}, "load_factor"),
    ],
)
def test_sizes_out_of_range_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        BlockHashTable(**options)


def test_an_unknown_engine_lists_the_known():
    with pytest.raises(UnknownNameError, match="cuda, triton"):
        BlockHashTable(8, engine="opencl")


def test_a_device_without_kernels_is_refused():
    with pytest.raises(DeviceError, match="meta"):
        BlockHashTable(8, device="meta")


@pytest.mark.parametrize(
    ("keys", "error"),
    [
        (torch.zeros(2, 3, dtype=torch.int64), ArgumentError),
        (torch.zeros(8, dtype=torch.int64), ArgumentError),
        (torch.zeros(2, 16, dtype=torch.uint8), ArgumentError),
        (torch.zeros(2, 4, dtype=torch.int32), ArgumentTypeError),
        (torch.zeros(2, 4, dtype=torch.float64), ArgumentTypeError),
        (torch.zeros(2, 4, dtype=torch.int64, device="meta"), ArgumentError),
        (torch.zeros(4, 2, dtype=torch.int64).T, ArgumentError),
        ([[0] * 4], ArgumentTypeError),
        (None, ArgumentTypeError),
    ],
)
def test_keys_that_do_not_fit_are_refused(table, keys, error):
    if isinstance(keys, torch.Tensor) and keys.device.type == "cpu":
        keys = keys.to(DEVICE)
    with pytest.raises(error, match="keys"):
        table.find(keys)
    assert unchanged(table)


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update(random_keys(2), ids(1)),
        lambda t: t.update(random_keys(2), ids(1, 2).long()),
        lambda t: t.update(random_keys(2), ids(1, 2), ids(1)),
        lambda t: t.update(random_keys(2), ids(1, 2), -1),
        lambda t: t.update(random_keys(2), ids(1, 2), 2**31),
        lambda t: t.update(random_keys(2), ids(1, 2), old=ids(1)),
    ],
)
def test_an_update_that_does_not_fit_is_refused(table, change):
    with pytest.raises(ArgumentError):
        change(table)
    assert unchanged(table)


@pytest.mark.parametrize("bad", [8, 2**31 - 1, -2])
@pytest.mark.parametrize("side", ["old", "new"])
def test_a_batch_with_a_block_id_out_of_range_is_left_out(table, side, bad):
    batch = {"old": ids(0, 1), "new": ids(4, 5)}
    batch[side] = ids(int(batch[side][0]), bad)
    with pytest.raises(BlockIdError, match="8 blocks"):
        table.update(random_keys(2), batch["new"], old=batch["old"])
    assert unchanged(table)


def test_a_batch_with_a_negative_group_is_left_out(table):
    with pytest.raises(ArgumentError, match="negative"):
        table.update(random_keys(2), ids(4, 5), ids(0, -1), old=ids(-1, -1))
    assert unchanged(table)


def test_a_bad_batch_does_not_close_the_table_for_the_next(table):
    table.update_async(random_keys(2), ids(8, 9), old=ids(0, 1))
    table.update_async(random_keys(5)[4:], ids(7), old=ids(-1))
    with pytest.raises(BlockIdError):
        table.size()
    assert table.find(random_keys(5)).tolist() == [0, 1, 2, 3, 7]


def test_an_error_is_reported_once(table):
    table.update_async(random_keys(2), ids(8, 9))
    with pytest.raises(BlockIdError):
        table.find(random_keys(1))
    assert table.find(random_keys(1)).tolist() == [0]


@pytest.mark.parametrize("offsets", [[0, 3, 2, 5], [0, 6], [-1, 5], [4, 2]])
def test_offsets_that_decrease_or_leave_the_keys_are_refused(table, offsets):
    with pytest.raises(ArgumentError, match="offsets"):
        table.longest_prefix(random_keys(5), to_device(offsets))
    assert unchanged(table)


@pytest.mark.parametrize(
    ("offsets", "limits"), [([], None), ([[0, 5]], None), ([0.0, 5.0], None), ([0, 5], [1, 2]), ([0, 5], [1.0])]
)
def test_arguments_of_a_prefix_lookup_are_checked(table, offsets, limits):
    limits = None if limits is None else to_device(limits)
    with pytest.raises(ArgumentError):
        table.longest_prefix(random_keys(5), to_device(offsets), max_lengths=limits)


def test_buffers_of_another_batch_are_refused(table):
    with pytest.raises(ArgumentError, match="out"):
        table.longest_prefix(random_keys(5), to_device([0, 5]), out=table.prefix_buffers(1, 4))


@pytest.mark.parametrize("field", ["num_tokens", "firsts", "lengths", "ids", "hits"])
def test_a_buffer_of_another_shape_is_refused(table, field):
    out = table.prefix_buffers(1, 5)
    short = getattr(out, field)[..., :0].contiguous()
    with pytest.raises(ArgumentError, match=field):
        table.longest_prefix(random_keys(5), to_device([0, 5]), out=out._replace(**{field: short}))


def test_results_are_not_written_into_a_copy_of_a_numpy_array(table):
    with pytest.raises(ArgumentTypeError, match="numpy"):
        table.find(random_keys(2), out=np.zeros(2, np.int32))


def test_more_requests_than_a_grid_has_programs_are_refused():
    with pytest.raises(ArgumentError, match="split"):
        programs_of(2**30, 1, 2, 32)


def test_a_request_has_a_program_for_each_tile_unless_there_are_many_requests():
    assert programs_of(3, 33, 2, 32) == 2
    assert programs_of(3, 0, 2, 32) == 0
    assert programs_of(1, 10**5, 1, 32) == 3125
    assert programs_of(1000, 8192, 1, 32) == 16
    assert programs_of(10**6, 8192, 1, 32) == 1


@every_engine
def test_programs_that_take_several_tiles_find_every_key(engine, monkeypatch):
    monkeypatch.setattr(longest_prefix, "MAX_PROGRAMS", 4)
    table, keys = make_table(1200, engine=engine), random_keys(1200)
    table.update(keys, ids(*range(1200)))
    plan = PrefixPlan((HitQuery(HitRule(SLIDING_WINDOW, 1, 1, extent=2), (0,)),))
    found = table.longest_prefix(keys, to_device([0, 1100, 1103, 1200]), plan)
    assert found.num_tokens.tolist() == [1100, 3, 97]
    assert found.hits[0].tolist() == list(range(1200))


def test_a_plan_that_asks_for_parts_of_blocks_is_refused(table):
    plan = PrefixPlan((HitQuery(HitRule(FULL, 4, 1, unit=1), (0,), 4),))
    with pytest.raises(ArgumentError, match="inside a block"):
        table.prefix_buffers(1, 8, plan)


@pytest.mark.parametrize(
    "query",
    [
        HitQuery(HitRule(FULL, 4, 4), ()),
        HitQuery(HitRule(FULL, 4, 4), (0,), 0),
        HitQuery(HitRule(FULL, 0, 4), (0,)),
        HitQuery(HitRule(FULL, 4, 0), (0,)),
        HitQuery(HitRule(CHUNKED_LOCAL, 4, 4), (0,)),
    ],
)
def test_a_query_that_kernels_cannot_compute_is_refused(query):
    with pytest.raises(ConfigError):
        PrefixPlan((query,))


@pytest.mark.parametrize("count", [0, 63])
def test_a_plan_has_queries_but_not_too_many(count):
    with pytest.raises(ConfigError, match="queries"):
        PrefixPlan((HitQuery(HitRule(0, 1, 1), (0,)),) * count)


def damage_tag(words):
    words[words[:, 0] != 0, 0] ^= 1 << 40


def damage_twice(words):
    bucket = int((words[:, 0] != 0).nonzero()[0])
    words[bucket, 6] = words[bucket, 0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda view: damage_tag(view.words), "tag of another key"),
        (lambda view: damage_twice(view.words), "in the table twice"),
        (lambda view: view.words[:, OVERFLOW_WORD].add_(1), "overflows wrong"),
        (lambda view: view.meta[META_SIZE].add_(1), "are counted"),
        (lambda view: view.records[1].copy_(view.records[0]), "key of another"),
        (lambda view: view.words[0, 5].fill_(2**31 - 1), "name no block"),
        (lambda view: view.words.copy_(view.words.roll(1, 0)), "cannot be reached"),
    ],
)
def test_check_finds_planted_damage(table, damage, message):
    damage(table.view)
    with pytest.raises(InvariantError, match=message):
        table.check()
    assert table.view.meta[META_STATUS] == 0


def test_numpy_arrays_and_dlpack_are_taken(table):
    keys = random_keys(2).cpu().numpy()
    assert table.find(keys).tolist() == [0, 1]

    class Exporter:
        def __init__(self, tensor):
            self.tensor = tensor

        def __dlpack__(self, **options):
            return self.tensor.__dlpack__(**options)

        def __dlpack_device__(self):
            return self.tensor.__dlpack_device__()

    assert table.find(Exporter(random_keys(2))).tolist() == [0, 1]
    assert isinstance(keys, np.ndarray)
