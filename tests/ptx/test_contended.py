"""Flushes whose programs contend end as one change after the other would, in what a GPU runs."""

import pytest
from support.device.tables import every_engine, ids, make_table, random_keys
from support.ptx.contention import contended_tables
from support.ptx.kernel import schedule, scheduled

from kvgpu.errors import InvariantError

TABLES = 100


@every_engine
@pytest.mark.parametrize("part", range(4))
def test_contended_flushes_end_as_one_change_after_the_other(engine, part):
    before = schedule.launches
    assert len(list(contended_tables(engine, TABLES // 4, part * TABLES // 4))) == TABLES // 4
    assert schedule.launches - before > 10 * TABLES // 4


@every_engine
def test_a_change_of_a_block_that_is_not_first_looks_at_few_buckets(engine):
    table, keys = make_table(5_000, engine=engine), random_keys(5_000)
    table.update(keys, ids(*range(5_000)))
    with scheduled(max_steps=300):
        table.update_async(random_keys(40, seed=1), ids(*[-1] * 40), old=ids(*range(40)), validate=False)
    with pytest.raises(InvariantError):
        table.size()
    table.check()
