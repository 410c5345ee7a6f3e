"""`AllocationArguments`: what one call of `allocate_slots` asks for, as compiled code reads it."""

from typing import NamedTuple

import numpy as np

from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks


class SlotsCall(NamedTuple):
    """The arguments of `KVCacheManager.allocate_slots`, except the request: as they came, nothing is checked."""

    num_new: int
    num_hit_tokens: int
    computed: KVCacheBlocks | None
    num_lookahead: int
    num_external: int
    delays: bool
    num_encoder: int
    must_fit: bool
    reserved_blocks: int
    num_in_flight: int
    """Tokens of steps that have not ended yet: blocks that these read stay."""
    headroom: int
    """Blocks that must stay free besides those reserved, as a waiting request leaves them."""
    unzeroed: tuple[int, ...]
    """Groups whose blocks for external tokens an engine need not zero."""


class AllocationArguments(NamedTuple):
    """Numbers of tokens but where said; the arguments of `KVCacheManager.allocate_slots`, and what the request says."""

    num_computed: int
    """That the request has slots for."""
    num_hit_tokens: int
    num_external: int
    """Computed elsewhere, in blocks that are still to be given."""
    num_new: int
    num_lookahead: int
    num_tokens: int
    """Of the request."""
    num_prompt: int
    """-1 if not known."""
    junction: int
    """Position up to which some groups had cached a longer prefix; 0 if there is none."""
    num_hashed: int
    """The blocks of so many tokens can have hashes; more than a request has, where a missing hash is an error."""
    num_in_flight: int
    max_model_len: int
    reserved_blocks: int
    headroom: int
    first_hash: int
    """Place in the request of the block that the first given hash belongs to."""
    whole: bool
    """Refuse unless the whole sequence would fit."""
    takes_hits: bool
    caches: bool
    """Whether this call caches what becomes full."""
    caching: bool
    """Whether the manager caches at all."""


CHECKED_AGAINST = ("num_encoder", "hash_block_size", "num_hashes", "distinct", "clamps")
"""What else a call is checked against. num_hashes: of the request. distinct: no two of its hashes can be equal. clamps:
whether hashes of full blocks may be missing."""

IN_A_LIST = ("listed", "bytes_type", "hash_width")
"""Where hashes of a list are read: its address or 0, the address of the type `bytes`, and bytes of a hash."""

ARGUMENT_RECORD = np.dtype([(name, "<i8") for name in (*AllocationArguments._fields, *CHECKED_AGAINST, *IN_A_LIST)])
"""The same as a record that Python fills: nothing in it has been checked."""
