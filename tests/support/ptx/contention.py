"""Tables whose flushes contend: programs of one launch meet in the same buckets, and threads take turns at random."""

from collections.abc import Iterator

from support.ptx.kernel import scheduled

from kvgpu.device.selftest import SelfTest

LOADS = (0.9, 0.5, 0.3)
"""At 0.9 a flush takes two launches, and entries go far; otherwise one, in which some leave where others enter."""
BLOCKS = (40, 260)
FLUSHES = 3


def contended_table(engine: str, number: int) -> None:
    """Flush one table a few times, and compare it with a dict each time; what it is like follows from its number.

    Raises:
        InvariantError, LaunchError: A wrong answer, or a race.
    """
    key_bytes, load = (16, 32)[number % 2], LOADS[number % 3]
    # One program after the other: those that enter may then meet a table that none has left yet.
    at_once = (24, 1)[number // 12 % 2]
    with scheduled(seed=7919 * number, pause_every=2, blocks_at_once=at_once):
        test = SelfTest(engine, key_bytes, BLOCKS[number // 6 % 2], load_factor=load, seed=number)
        for _ in range(FLUSHES):
            test.flush()
            test.look_up()
            test.table.check()


def contended_tables(engine: str, count: int, first: int = 0) -> Iterator[int]:
    """So many tables, one number after the other."""
    for number in range(first, first + count):
        contended_table(engine, number)
        yield number
