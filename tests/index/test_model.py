"""Indexes against a plain dict: random calls in any order, and a million changes in batches."""

from itertools import chain as joined

import numpy as np
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from support.definitions.hits import expected_hit
from support.indexes import chain, every_backend, make_index, match, random_rows, replay
from support.managers import CPU_BACKENDS

from kvgpu.blocks.record import HAS_HASH, IN_TABLE
from kvgpu.index.journal import Journal
from kvgpu.rules.plan import HitRule
from kvgpu.rules.plan_words import FULL, MAMBA, SLIDING_WINDOW

NUM_BLOCKS = 20
ROWS = random_rows(6)
GROUPS = (0, 4)

block_sets = st.lists(st.integers(0, NUM_BLOCKS - 1), max_size=12, unique=True)
key_numbers = st.integers(0, len(ROWS) - 1)
hit_rules = st.sampled_from(
    [HitRule(FULL, 2, 2), HitRule(FULL, 2, 4, True), HitRule(SLIDING_WINDOW, 2, 2, False, 2), HitRule(MAMBA, 2, 4)]
)


class IndexMachine(RuleBasedStateMachine):
    """The model holds the blocks of each (key number, group) in order, and what blocks remember."""

    def __init__(self, backend):
        super().__init__()
        # A copy on a device follows a journal of its own.
        self.journal = Journal() if backend in CPU_BACKENDS else None
        self.index = make_index(backend, NUM_BLOCKS, self.journal)
        self.index.state.null_id = 0
        self.model = {}
        self.keys = {}
        self.copy = {}

    def _present(self):
        return set(joined.from_iterable(self.model.values()))

    @rule(blocks=block_sets, keys=st.lists(key_numbers, min_size=12, max_size=12), data=st.data())
    def insert(self, blocks, keys, data):
        group = data.draw(st.sampled_from(GROUPS))
        stride = data.draw(st.sampled_from([1, 2]))
        ids = [-1 if block in self.keys else block for block in blocks]
        numbers = (keys * stride)[: len(ids) * stride]
        self.index.insert(np.array(ids, np.int32), ROWS[numbers], stride, group, 0)
        for place, block in enumerate(ids):
            if block >= 0:
                self.keys[block] = numbers[(place + 1) * stride - 1], group
                self.model.setdefault(self.keys[block], []).append(block)

    @rule(blocks=block_sets, forget=st.booleans())
    def erase(self, blocks, forget):
        self.index.erase(np.array(blocks, np.int32), forget)
        for block in self._present().intersection(blocks):
            self.model[self.keys[block]].remove(block)
            if not self.model[self.keys[block]]:
                del self.model[self.keys[block]]
            if forget:
                del self.keys[block]

    @precondition(lambda self: set(self.keys) - self._present())
    @rule(data=st.data())
    def enter(self, data):
        block = data.draw(st.sampled_from(sorted(set(self.keys) - self._present())))
        self.index.enter(block)
        self.model.setdefault(self.keys[block], []).append(block)

    @rule()
    def rebuild(self):
        if self.journal is not None:
            replay(self.copy, self.journal.take())
        self.index.rebuild()
        if self.journal is not None:
            self.journal.discard()

    @precondition(lambda self: self.journal is not None)
    @rule()
    def flush(self):
        replay(self.copy, self.journal.take())
        assert self.copy == {
            (ROWS[number].tobytes(), group): blocks[0] for (number, group), blocks in self.model.items()
        }

    @rule(keys=st.lists(key_numbers, max_size=8), rule=hit_rules, both=st.booleans())
    def match(self, keys, rule, both):
        groups = GROUPS if both else GROUPS[1:]
        hits = [all((key, group) in self.model for group in groups) for key in keys]
        nulls, length = expected_hit(hits, rule, len(keys) * 2)
        assert match(self.index, rule, groups, ROWS[keys], len(keys) * 2) == [
            [0] * nulls + [self.model[key, group][0] for key in keys[nulls:length]] for group in groups
        ]

    @invariant()
    def chains_are_those_of_the_model(self):
        for group in GROUPS:
            for number, row in enumerate(ROWS):
                assert chain(self.index, row, group) == self.model.get((number, group), [])
        assert len(self.index) == len(self.model)

    @invariant()
    def blocks_remember_their_hash_until_told_to_forget(self):
        flags = self.index.state.records["flags"][:-1]
        assert set(np.flatnonzero(flags & HAS_HASH)) == set(self.keys)
        assert set(np.flatnonzero(flags & IN_TABLE)) == self._present()

    @invariant()
    def the_index_is_sound(self):
        self.index.check()


@every_backend
def test_random_calls_leave_the_index_as_a_dict_would_be(backend):
    examples, steps = (40, 25) if backend in CPU_BACKENDS else (4, 12)
    run_state_machine_as_test(
        lambda: IndexMachine(backend),
        settings=settings(max_examples=examples, stateful_step_count=steps, deadline=None),
    )


def test_a_million_changes_leave_the_host_index_sound():
    num_blocks, num_keys, batch, total = 20_000, 30_000, 2_000, 1_000_000
    random = np.random.default_rng(7)
    index = make_index("host", num_blocks)
    rows = random_rows(num_keys)
    model = {}
    key_of = np.full(num_blocks, -1)
    done = 0
    while done < total:
        inside = np.flatnonzero(key_of >= 0)
        if len(inside) > num_blocks - batch:
            leaving = random.permutation(inside)[: 2 * batch].astype(np.int32)
            index.erase(leaving)
            for block, key in zip(leaving.tolist(), key_of[leaving].tolist(), strict=True):
                model[key].remove(block)
            key_of[leaving] = -1
            done += len(leaving)
        coming = random.permutation(np.flatnonzero(key_of < 0))[:batch].astype(np.int32)
        keys = random.integers(num_keys, size=len(coming))
        index.insert(coming, rows[keys], 1, 0, 0)
        for block, key in zip(coming.tolist(), keys.tolist(), strict=True):
            model.setdefault(key, []).append(block)
        key_of[coming] = keys
        done += len(coming)
    index.check()
    assert {key: blocks for key, blocks in model.items() if blocks} == {
        key: blocks for key, row in enumerate(rows) if (blocks := chain(index, row))
    }
