"""Random flushes and lookups of a table against a dict."""

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from support.device.tables import ids, make_table, to_device
from support.slot_hashes import key_of_hash

NUM_BLOCKS = 24
NUM_KEYS = 40


class TableMachine(RuleBasedStateMachine):
    """Keys with few different slot hashes, so that most share a bucket and many a tag."""

    def __init__(self):
        super().__init__()
        self.table = make_table(NUM_BLOCKS, load_factor=0.9)
        hashes = [(i % 4 << 62) | (2 * (i % 3) + 1) for i in range(NUM_KEYS)]
        seed = self.table.view.seed
        self.keys = np.array([key_of_hash(seed, h, [i, 0, 0, 0]) for i, h in enumerate(hashes)])
        self.first = {}

    @rule(data=st.data())
    def flush(self, data):
        """Erase, replace and enter at once; blocks that leave come back under other keys."""
        changed = data.draw(st.lists(st.integers(0, NUM_KEYS - 1), unique=True, max_size=12))
        kept = {key: block for key, block in self.first.items() if key not in changed}
        idle = sorted(set(range(NUM_BLOCKS)) - set(kept.values()))
        order = data.draw(st.permutations(idle))
        fates = [data.draw(st.booleans()) for _ in changed]
        after = dict(kept)
        for key, lives in zip(changed, fates, strict=True):
            if lives and order:
                after[key] = order.pop()
        new = [after.get(key, -1) for key in changed]
        old = [self.first.get(key, -1) for key in changed]
        size = self.table.update(to_device(self.keys[changed].reshape(-1, 4)), ids(*new), old=ids(*old))
        self.first = after
        assert size == len(after)

    @rule()
    def rebuild(self):
        keys = list(self.first)
        self.table.rebuild(to_device(self.keys[keys].reshape(-1, 4)), ids(*self.first.values()))

    @rule(begin=st.integers(0, NUM_KEYS), length=st.integers(0, NUM_KEYS))
    def longest_prefix(self, begin, length):
        span = range(begin, min(begin + length, NUM_KEYS))
        offsets = to_device([0, len(span)])
        found = self.table.longest_prefix(to_device(self.keys[list(span)].reshape(-1, 4)), offsets)
        run = next((i for i, key in enumerate(span) if key not in self.first), len(span))
        assert found.num_tokens.tolist() == [run]

    @invariant()
    def every_key_is_found_as_the_dict_says(self):
        expected = [self.first.get(key, -1) for key in range(NUM_KEYS)]
        assert self.table.find(to_device(self.keys)).tolist() == expected

    def teardown(self):
        self.table.check()


TestTable = TableMachine.TestCase
TestTable.settings = settings(max_examples=8, stateful_step_count=10, deadline=None)


def test_a_table_stays_right_through_a_long_churn():
    """Half of the blocks change hands in every flush, at a load of 0.9."""
    rng = np.random.default_rng(0)
    num_blocks, table = 200, make_table(200, 16, load_factor=0.9)
    keys = rng.integers(-(2**63), 2**63 - 1, (600, 2))
    first = {}
    for _ in range(10):
        changed = rng.permutation(600)[:280].tolist()
        kept = {key: block for key, block in first.items() if key not in set(changed)}
        idle = rng.permutation(sorted(set(range(num_blocks)) - set(kept.values()))).tolist()
        new = [idle.pop() if idle and rng.random() < 0.7 else -1 for _ in changed]
        old = [first.get(key, -1) for key in changed]
        first = kept | {key: block for key, block in zip(changed, new, strict=True) if block >= 0}
        assert table.update(to_device(keys[changed]), ids(*new), old=ids(*old)) == len(first)
    assert table.find(to_device(keys)).tolist() == [first.get(key, -1) for key in range(600)]
    table.check()
