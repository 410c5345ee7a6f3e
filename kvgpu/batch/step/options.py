"""`StepOptions`: how a step is taken."""

from typing import NamedTuple

import numpy as np


class StepOptions(NamedTuple):
    """What the caller asks of a step, besides rows and their new tokens."""

    num_lookahead: int
    """Draft tokens of each row that need slots."""
    reserved_blocks: int
    whole: bool
    """Refuse a row unless its whole sequence would fit."""
    caches: bool
    """Whether the step caches what becomes full."""
    stops: bool
    """Do not try the rows after the first one that does not fit."""
    stamp: int
    """Of this step, see `check_row`."""


STEP_OPTIONS = np.dtype(
    [
        *((name, "<i8") for name in StepOptions._fields),
        # Whether compiled code serves the step, or only checks it.
        ("arrays", "<i8"),
        # Whether everything was checked and prepared before.
        ("checked", "<i8"),
        # Notes that the journal has room for; below 0 if something else has to be prepared before any block changes.
        ("log_room", "<i8"),
        # Whether nobody else can have freed blocks of any row.
        ("trusts", "<i8"),
        # From here on, the same for all steps. Whether the manager caches at all, and whether a lookup counts when the
        # request is given its slots.
        ("caching", "<i8"),
        ("counts_admissions", "<i8"),
        ("max_model_len", "<i8"),
        ("hash_block_size", "<i8"),
        # Whether full blocks may lack a hash.
        ("clamps", "<i8"),
        # Whether what is cached depends on how far some groups had cached a longer prefix.
        ("junctions", "<i8"),
    ]
)
"""The options of a step as compiled code reads them."""

NUM_WRITTEN = len(StepOptions._fields) + 4
"""Words that every step writes anew."""
