"""Cache groups by name on the command line: `full+swa:1024+swa:1024`, `full+mamba`, ..."""

import reprlib
from collections.abc import Callable
from math import gcd, lcm
from typing import Any

from kvgpu.config.behaviour import BEHAVIOUR_0_23, Behaviour
from kvgpu.config.block_sizes import ends_inside_blocks
from kvgpu.config.kv_cache_config import KVCacheConfig, KVCacheGroupSpec
from kvgpu.config.specs import (
    ChunkedLocalAttentionSpec,
    FullAttentionSpec,
    KVCacheSpec,
    MambaSpec,
    MLAAttentionSpec,
    SlidingWindowSpec,
)
from kvgpu.errors import ConfigError, UnknownNameError
from kvgpu.replay.traces.ranges import INT32_MAX

_HEADS: dict[str, Any] = {"num_kv_heads": 1, "head_size": 1, "dtype": None}


def _tokens(before: str, argument: str) -> int:
    # Check the length before int(), which refuses thousands of digits.
    is_number = argument.isdecimal() and len(argument) <= len(str(INT32_MAX))
    if not is_number or not 1 <= int(argument) <= INT32_MAX:
        raise ConfigError(
            f"'{before}' needs a number of tokens of 1 to {INT32_MAX:,} after it, as in '{before}1024', "
            f"got {reprlib.repr(argument)}"
        )
    return int(argument)


def _full(name: str, spec: type[FullAttentionSpec], size: int, argument: str) -> KVCacheSpec:
    if argument:
        raise ConfigError(f"group '{name}' takes no argument, got '{name}:{argument}'")
    return spec(size, **_HEADS)


GROUPS: dict[str, Callable[[int, str], KVCacheSpec]] = {
    "full": lambda size, arg: _full("full", FullAttentionSpec, size, arg),
    "mla": lambda size, arg: _full("mla", MLAAttentionSpec, size, arg),
    "swa": lambda size, arg: SlidingWindowSpec(size, **_HEADS, sliding_window=_tokens("swa:", arg)),
    "chunked": lambda size, arg: ChunkedLocalAttentionSpec(
        size, **_HEADS, attention_chunk_size=_tokens("chunked:", arg)
    ),
    "mamba": lambda size, arg: MambaSpec(size, ((1,),), (None,), mamba_cache_mode=arg),
}


def _mode_of_states(given: str, behaviour: Behaviour) -> str:
    """Return the mode of a Mamba group, of which behaviour 0.33 caches the states in mode `align` only.

    Raises:
        ConfigError: The states of this mode are never hit.
    """
    if not behaviour.keeps_boundaries:
        return given or "all"
    if given not in ("", "align"):
        raise ConfigError(
            f"in behaviour {behaviour.version} states are cached in mode 'align' only, got {reprlib.repr(given)}"
        )
    return "align"


def parse_groups(
    text: str,
    block_size: int,
    num_blocks: int,
    behaviour: Behaviour = BEHAVIOUR_0_23,
    retention_interval: int | None = None,
) -> KVCacheConfig:
    """Make a configuration from names of cache groups.

    Args:
        text: Names joined by `+`; a name may have an argument after `:` (tokens of a window or a chunk, the mode of
            Mamba) and a block size after `@`.
        block_size: Tokens per block of the groups without a block size.
        num_blocks: Blocks of the pool.
        behaviour: Decides the mode of Mamba groups that say none: `all` in 0.23, `align` in 0.33.
        retention_interval: Field of the configuration (fact B60), in tokens.

    Raises:
        UnknownNameError: There is no such group; the message lists all groups.
        ConfigError: An argument is missing or wrong, or blocks of states would be hit inside (fact B80), where the
            replay cuts no prompts.
    """
    groups = []
    for place, part in enumerate(text.split("+")):
        part, _, own_size = part.strip().partition("@")
        name, _, argument = part.partition(":")
        if name not in GROUPS:
            raise UnknownNameError("cache group", name, list(GROUPS))
        size = _tokens(f"{name}@", own_size) if own_size else block_size
        if name == "mamba":
            argument = _mode_of_states(argument, behaviour)
        groups.append(KVCacheGroupSpec([f"layer{place}"], GROUPS[name](size, argument)))
    config = KVCacheConfig(num_blocks, [], groups, retention_interval)
    hash_block_size = gcd(*(group.kv_cache_spec.block_size for group in groups))
    if behaviour.keeps_boundaries and ends_inside_blocks(groups, hash_block_size, 1):
        raise ConfigError(
            f"in behaviour {behaviour.version} blocks of states would be hit inside, every {hash_block_size} tokens, "
            "where the replay cuts no prompts: give all groups blocks of one size"
        )
    return config


def block_sizes_of(config: KVCacheConfig) -> tuple[int, int]:
    """Return (scheduler block size, hash block size) of a configuration, in tokens.

    Raises:
        ConfigError: The least common multiple of all block sizes is too large to be counted.
    """
    sizes = [group.kv_cache_spec.block_size for group in config.kv_cache_groups]
    common = lcm(*sizes)
    if common > INT32_MAX:
        raise ConfigError(f"the block sizes of the groups have no common multiple of up to {INT32_MAX:,} tokens")
    return common, gcd(*sizes)
