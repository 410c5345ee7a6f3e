"""How many tokens of running requests an engine computes in a step, all in one call."""

from typing import Any

from kvgpu.compiled.jit import jit

TOKENS, COMPUTED, PLACEHOLDERS, DRAFTS, ENDS, AFTER_INPUTS, NUM_NEW, COLUMNS = range(8)
"""Rows of the columns of requests.

TOKENS: of the request. COMPUTED: of these, those that have slots. PLACEHOLDERS: tokens that are sampled but not known
yet. DRAFTS: draft tokens. ENDS: tokens of prompt and answer. AFTER_INPUTS: tokens from which on no input of an encoder
is missing. NUM_NEW: written, tokens to compute.
"""

BUDGET, LONGEST_CHUNK, LONGEST, LIMITS = range(4)
"""Numbers of tokens: of all requests in a step, of one request in a step (0 for no limit), and of one request."""


@jit
def plan_tokens(columns: Any, limits: Any) -> Any:
    """Decide how many tokens each request computes, in order, until a request is not a usual one.

    Args:
        columns: int64 [COLUMNS, n].
        limits: int64 [LIMITS].

    Returns:
        The number of usual requests; and the first of them that computes something else than one token, its last.
    """
    spent, first_other = 0, columns.shape[1]
    for i in range(columns.shape[1]):
        computed, holders = columns[COMPUTED, i], columns[PLACEHOLDERS, i]
        missing = columns[TOKENS, i] + holders - computed + columns[DRAFTS, i]
        if holders > 0 and computed + 2 - holders >= columns[ENDS, i]:
            missing = 0  # what is sampled already ends it
        new = missing
        if limits[LONGEST_CHUNK] > 0:
            new = min(new, limits[LONGEST_CHUNK])
        new = min(new, limits[LONGEST] - 1 - computed)
        if new < 0 or computed < columns[AFTER_INPUTS, i]:
            return i, min(first_other, i)
        given = max(0, min(new, limits[BUDGET] - spent))
        spent += new
        columns[NUM_NEW, i] = given
        if given != 0 and missing != 1:
            first_other = min(first_other, i)
    return columns.shape[1], first_other
