"""`StepOptions`: what compiled code is told about a step, besides its rows."""

from typing import NamedTuple

import numpy as np


class StepOptions(NamedTuple):
    """Options of one step; compiled code reads them from a STEP_OPTIONS record."""

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
    arrays: bool
    """Whether compiled code serves the step, or only checks it."""
    checked: bool
    """Whether everything was checked and prepared before."""
    log_room: int
    """Notes that the journal has room for; below 0 if something else has to be prepared before any block changes."""
    trusts: bool
    """Whether nobody else can have freed blocks of any row."""
    max_model_len: int
    hash_block_size: int
    caching: bool
    """Whether the manager caches at all."""
    counts_admissions: bool
    """Whether a lookup counts when the request is given its slots."""


STEP_OPTIONS = np.dtype([(name, "<i8") for name in StepOptions._fields])
