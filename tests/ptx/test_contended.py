"""Flushes whose programs contend end as one change after the other would, in what a GPU runs."""

import pytest
from support.device.tables import every_engine
from support.ptx.contention import contended_tables
from support.ptx.kernel import schedule

TABLES = 100


@every_engine
@pytest.mark.parametrize("part", range(4))
def test_contended_flushes_end_as_one_change_after_the_other(engine, part):
    before = schedule.launches
    assert len(list(contended_tables(engine, TABLES // 4, part * TABLES // 4))) == TABLES // 4
    assert schedule.launches - before > 10 * TABLES // 4
