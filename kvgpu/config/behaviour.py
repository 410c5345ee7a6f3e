"""`Behaviour`: in what the KV-cache managers of vLLM's versions differ, each difference stated once."""

from dataclasses import dataclass, replace
from typing import Final

from kvgpu.errors import ArgumentTypeError, UnknownNameError
from kvgpu.integers import shown


@dataclass(frozen=True)
class Behaviour:
    """What one version of vLLM does; `BEHAVIOURS` has those that kvgpu was compared with.

    Facts with a B are numbered as in docs/semantics.md. Whatever is not named here is the same in all versions.
    """

    version: str
    """Oldest version of vLLM that does all of this."""

    tags_extra_keys: bool
    """Extra keys are hashed with a tag for their kind, and the path of an adapter (B2)."""
    fixes_root_hash: bool
    """Cryptographic functions begin every chain with the same hash, not with a random one (B1)."""
    finds_items: bool
    """A request that grows finds its multimodal items by position, and not only the last of them (B4)."""
    keys_by_last_hash: bool
    """The key of a block of several hash blocks is the last of their hashes, not all of them (B5)."""

    splits_freed_blocks: bool
    """Freed blocks without a hash are reused before all others, in every group, not only in windows (B24)."""
    counts_null_users: bool
    """The null block has a reference count that changes (B24, B25)."""
    maps_events: bool
    """Events are maps, not arrays, and say more (B90, B91)."""

    clamps_to_hashes: bool
    """A request may have fewer hashes than full blocks, of which the rest is not cached (B31)."""
    waits_for_steps: bool
    """Blocks before a window are freed once no step in flight reads them (B40)."""
    retires_states: bool
    """States are freed by what was processed, wherever they lie, and counted as they are taken (B88, B89a)."""
    zeroes_by_config: bool
    """An engine is told of new blocks to zero if its configuration needs that, not by the type of a spec (B38)."""
    gives_hits_alone: bool
    """A call may give a request hits, and neither new nor external tokens (B30)."""
    trusts_hits: bool
    """Blocks that a caller gives as hits need not be cached (B36)."""
    counts_lookups: bool
    """Every lookup counts, not only one that led to an admission, which a scheduler reports (B51)."""

    counts_shared_blocks: bool
    """The leading blocks that all requests share are counted, for cascade attention (B14)."""
    reports_junction: bool
    """A lookup also says up to where a longer prefix was cached in some groups only (B50, B66)."""
    notes_junction: bool
    """A lookup leaves the junction with the coordinator, as in 0.24 and 0.25 (B50)."""
    drops_on_request: bool
    """Groups of a drafter lose the last block of a hit only if `use_eagle` says so (B70)."""
    looks_beyond_limit: bool
    """A lookup that will drop a block may look beyond the longest hit allowed, and states are not dropped (B74)."""
    thins_states: bool
    """A retention interval is about states, too, and not only about windows (B60, B64)."""
    configures_retention: bool
    """The retention interval comes with the configuration, not from the environment, and may be 0 anywhere (B60)."""
    keeps_boundaries: bool
    """With an interval, both ends of a prompt and junctions stay cached (B61 to B66)."""
    keeps_below_junctions: bool
    """So does, with EAGLE, the position one block before a junction (B62)."""
    shares_by_spec: bool
    """Context parallelism divides the blocks of the specs that say so, also beside other groups (B10, B13)."""
    keeps_inside: bool
    """The end of a prompt inside a block stays cached, and hits may end there in some models (B80 to B87)."""


BEHAVIOUR_0_23: Final = Behaviour(
    version="0.23",
    tags_extra_keys=False,
    fixes_root_hash=False,
    finds_items=False,
    keys_by_last_hash=False,
    splits_freed_blocks=False,
    counts_null_users=True,
    maps_events=False,
    clamps_to_hashes=False,
    waits_for_steps=False,
    retires_states=False,
    zeroes_by_config=False,
    gives_hits_alone=False,
    trusts_hits=False,
    counts_lookups=True,
    counts_shared_blocks=True,
    reports_junction=False,
    notes_junction=False,
    drops_on_request=False,
    looks_beyond_limit=False,
    thins_states=False,
    configures_retention=False,
    keeps_boundaries=False,
    keeps_below_junctions=False,
    shares_by_spec=False,
    keeps_inside=False,
)

BEHAVIOUR_0_33: Final = Behaviour(
    version="0.33",
    tags_extra_keys=True,
    fixes_root_hash=True,
    finds_items=True,
    keys_by_last_hash=True,
    splits_freed_blocks=True,
    counts_null_users=False,
    maps_events=True,
    clamps_to_hashes=True,
    waits_for_steps=True,
    retires_states=True,
    zeroes_by_config=True,
    gives_hits_alone=True,
    trusts_hits=True,
    counts_lookups=False,
    counts_shared_blocks=False,
    reports_junction=True,
    notes_junction=False,
    drops_on_request=True,
    looks_beyond_limit=True,
    thins_states=True,
    configures_retention=True,
    keeps_boundaries=True,
    keeps_below_junctions=True,
    shares_by_spec=True,
    keeps_inside=True,
)

BEHAVIOUR_0_24: Final = replace(
    BEHAVIOUR_0_23,
    version="0.24",
    keys_by_last_hash=True,
    splits_freed_blocks=True,
    maps_events=True,
    trusts_hits=True,
    notes_junction=True,
    thins_states=True,
)

BEHAVIOUR_0_32: Final = replace(
    BEHAVIOUR_0_33,
    version="0.32",
    counts_null_users=True,
    clamps_to_hashes=False,
    drops_on_request=False,
    keeps_below_junctions=False,
)

BEHAVIOURS: Final = {each.version: each for each in (BEHAVIOUR_0_23, BEHAVIOUR_0_24, BEHAVIOUR_0_32, BEHAVIOUR_0_33)}


def behaviour_of(given: "str | Behaviour") -> Behaviour:
    """Return a `Behaviour`, which may be given by the name of its version. O(1).

    Raises:
        UnknownNameError: No behaviour has this name.
        ArgumentTypeError: The argument is neither a name nor a `Behaviour`.
    """
    if isinstance(given, Behaviour):
        return given
    if not isinstance(given, str):
        raise ArgumentTypeError(f"behaviour: a version of vLLM or a Behaviour is expected, got {shown(given)}")
    if given not in BEHAVIOURS:
        raise UnknownNameError("behaviour", given, list(BEHAVIOURS))
    return BEHAVIOURS[given]
