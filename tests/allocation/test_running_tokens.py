"""How many tokens running requests compute, beside the same rules one by one."""

import numpy as np
import pytest

from kvgpu.allocation import running_tokens as names
from kvgpu.allocation.running_tokens import plan_tokens

RANGES = {
    names.TOKENS: (1, 12),
    names.COMPUTED: (0, 12),
    names.PLACEHOLDERS: (0, 3),
    names.DRAFTS: (0, 3),
    names.ENDS: (1, 14),
    names.AFTER_INPUTS: (0, 3),
}


def plain(columns, budget, longest_chunk, longest):
    """Tokens of each usual request, and whether each of these computes one token, its last, or none."""
    given, are_last = [], []
    wanted = 0
    for row in columns.T.tolist():
        tokens, computed, holders, drafts, ends, after_inputs, _ = row
        missing = tokens + holders + drafts - computed
        if holders and computed + 2 - holders >= ends:
            missing = 0
        new = min([missing, longest - 1 - computed] + ([longest_chunk] if longest_chunk else []))
        if new < 0 or computed < after_inputs:
            break
        given.append(max(0, min(new, budget - wanted)))
        are_last.append(missing == 1 or given[-1] == 0)
        wanted += new
    return given, are_last


@pytest.mark.parametrize("seed", range(300))
def test_tokens_are_those_of_the_rules(seed):
    rng = np.random.default_rng(seed)
    columns = np.zeros((names.COLUMNS, int(rng.integers(0, 9))), np.int64)
    for name, (low, high) in RANGES.items():
        columns[name] = rng.integers(low, high, columns.shape[1])
    columns[names.COMPUTED] = np.minimum(columns[names.COMPUTED], columns[names.TOKENS] + int(rng.random() < 0.2))
    if rng.random() < 0.5:
        columns[names.AFTER_INPUTS] = 0
    limits = np.zeros(names.LIMITS, np.int64)
    limits[names.BUDGET], limits[names.LONGEST_CHUNK] = rng.integers(1, 40), rng.choice([0, 0, 1, 3])
    limits[names.LONGEST] = rng.integers(6, 20)
    given, are_last = plain(columns, *limits.tolist())
    count, first_other = plan_tokens(columns, limits)
    assert columns[names.NUM_NEW, :count].tolist() == given
    assert [first_other >= served for served in range(count + 1)] == [
        all(are_last[:served]) for served in range(count + 1)
    ]
