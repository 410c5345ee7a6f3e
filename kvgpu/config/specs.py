"""What an engine says about its caches: one spec per kind of layer.

Names, fields and argument order are those of vLLM's ``kv_cache_interface``, so that the configuration code of an engine
works unchanged. Only what decides block counts and hits is read here; page sizes in bytes are the engine's concern.
"""

from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Any, ClassVar, Self

from kvgpu.errors import ConfigError
from kvgpu.integers import as_size, shown


class KVCacheSpecKind(StrEnum):
    """Kind of a cache group, as KV events name it."""

    FULL_ATTENTION = "full_attention"
    MLA_ATTENTION = "mla_attention"
    SLIDING_WINDOW = "sliding_window"
    SLIDING_WINDOW_MLA = "sliding_window_mla"
    MAMBA = "mamba"
    CHUNKED_LOCAL_ATTENTION = "chunked_local_attention"
    SINK_FULL_ATTENTION = "sink_full_attention"
    ENCODER_ONLY_ATTENTION = "encoder_only_attention"
    CROSS_ATTENTION = "cross_attention"
    UNKNOWN = "unknown"


MAMBA_CACHE_MODES = ("none", "all", "align")


def cdiv(a: int, b: int) -> int:
    """Return `a / b` rounded up, for integers."""
    return -(-a // b)


@dataclass(frozen=True)
class KVCacheSpec:
    """Base of all specs.

    Args:
        block_size: Tokens in one block, 1 to 2**31 - 1.
        dcp_sharded: Whether the ranks of decode context parallelism share a block's tokens. Read by behaviour 0.33;
            in 0.23 they do in all groups.
        origin: What an engine calls this spec, with fields that are not here. Only compared: groups are looked up
            together if their specs are equal, and those of the engine, too.

    Raises:
        ConfigError: `block_size` is not an integer in this range.
    """

    block_size: int
    dcp_sharded: bool = field(default=False, kw_only=True)
    origin: Any = field(default=None, kw_only=True, repr=False)
    kind: ClassVar[KVCacheSpecKind] = KVCacheSpecKind.UNKNOWN

    @property
    def prefix_cacheable(self) -> bool:
        """Whether blocks of this spec are cached at all, in behaviour 0.33."""
        return True

    def __post_init__(self) -> None:
        self._keep_size("block_size")

    def _keep_size(self, name: str, low: int = 1) -> None:
        """Check that an attribute is an integer of at least `low`, and store it as an int."""
        object.__setattr__(self, name, as_size(name, getattr(self, name), low))

    def copy_with_new_block_size(self, block_size: int) -> Self:
        """Return the same spec with another block size, in tokens; one below 1 is a ConfigError. O(1)."""
        return replace(self, block_size=block_size)


@dataclass(frozen=True, kw_only=True)
class _AttentionFields:
    num_kv_heads: int
    head_size: int
    dtype: Any
    kv_quant_mode: int = 0
    page_size_padded: int | None = None


@dataclass(frozen=True)
class AttentionSpec(_AttentionFields, KVCacheSpec):
    """Layers that cache keys and values of every token. `dtype` is only compared, never used."""

    dcp_sharded: bool = field(default=True, kw_only=True)


@dataclass(frozen=True)
class FullAttentionSpec(AttentionSpec):
    """Every token attends to all tokens before it.

    `sliding_window` and `attention_chunk_size` (tokens) record the window of layers that are nevertheless cached
    like full attention; they decide nothing here. A `block_size` below 1 token is a ConfigError.
    """

    kind = KVCacheSpecKind.FULL_ATTENTION
    head_size_v: int | None = field(default=None, kw_only=True)
    sliding_window: int | None = field(default=None, kw_only=True)
    attention_chunk_size: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.head_size_v is None:
            object.__setattr__(self, "head_size_v", self.head_size)


@dataclass(frozen=True)
class TQFullAttentionSpec(FullAttentionSpec):
    """Full attention over quantised slots of `tq_slot_size` bytes."""

    tq_slot_size: int = field(default=0, kw_only=True)


@dataclass(frozen=True)
class MLAAttentionSpec(FullAttentionSpec):
    """Multi-head latent attention; hits like full attention. A `block_size` below 1 token is a ConfigError."""

    kind = KVCacheSpecKind.MLA_ATTENTION
    cache_dtype_str: str | None = field(default=None, kw_only=True)
    alignment: int | None = field(default=None, kw_only=True)
    compress_ratio: int = field(default=1, kw_only=True)
    model_version: str | None = field(default=None, kw_only=True)


@dataclass(frozen=True)
class HiddenStateCacheSpec(MLAAttentionSpec):
    """Hidden states cached for draft models; hits like full attention."""


@dataclass(frozen=True)
class SinkFullAttentionSpec(FullAttentionSpec):
    """Full attention with `sink_len` tokens at the front, shared by all requests: a positive multiple of `block_size`.

    Any other `sink_len` is a ConfigError when a manager is made. A `block_size` below 1 token is a ConfigError.
    """

    kind = KVCacheSpecKind.SINK_FULL_ATTENTION
    sink_len: int | None = None


@dataclass(frozen=True)
class ChunkedLocalAttentionSpec(AttentionSpec):
    """Attention within chunks of `attention_chunk_size` tokens. A chunk or `block_size` below 1 is a ConfigError."""

    kind = KVCacheSpecKind.CHUNKED_LOCAL_ATTENTION
    attention_chunk_size: int = field(kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep_size("attention_chunk_size")

    def max_admission_blocks_per_request(self, max_num_batched_tokens: int, max_model_len: int) -> int:
        """Return the most blocks that one request holds in this group at any time (fact 50). O(1).

        Args:
            max_num_batched_tokens: Most tokens of one scheduler step.
            max_model_len: Longest sequence, in tokens.
        """
        tokens = min(self.attention_chunk_size + max_num_batched_tokens, max_model_len)
        return cdiv(tokens, self.block_size)


@dataclass(frozen=True)
class SlidingWindowSpec(AttentionSpec):
    """A token attends to the last `sliding_window` tokens, itself included.

    `extra_retained_tokens` tokens in front of the window are kept too, for drafters that compute several of the last
    tokens again. A `block_size` or a window below 1 token is a ConfigError.
    """

    kind = KVCacheSpecKind.SLIDING_WINDOW
    sliding_window: int = field(kw_only=True)
    head_size_v: int | None = field(default=None, kw_only=True)
    extra_retained_tokens: int = field(default=0, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep_size("sliding_window")
        self._keep_size("extra_retained_tokens", 0)
        if self.head_size_v is None:
            object.__setattr__(self, "head_size_v", self.head_size)

    def max_admission_blocks_per_request(self, max_num_batched_tokens: int, max_model_len: int) -> int:
        """Return the most blocks that one request holds in this group at any time (facts 50 and B39). O(1).

        Args:
            max_num_batched_tokens: Most tokens of one scheduler step, or of all that may be in flight.
            max_model_len: Longest sequence, in tokens.
        """
        # One block more than the tokens need, since a window need not start at a block boundary.
        kept = self.sliding_window - 1 + self.extra_retained_tokens
        tokens = min(kept + max_num_batched_tokens, max_model_len)
        return cdiv(tokens, self.block_size) + 1


@dataclass(frozen=True)
class SlidingWindowMLASpec(SlidingWindowSpec):
    """Sliding window over latent attention. A `block_size` or a window below 1 token is a ConfigError.

    `bounded_replay`: the window is computed again after a hit, so that it is not cached.
    """

    kind = KVCacheSpecKind.SLIDING_WINDOW_MLA
    bounded_replay: bool = field(default=False, kw_only=True)
    cache_dtype_str: str | None = field(default=None, kw_only=True)
    alignment: int | None = field(default=None, kw_only=True)
    compress_ratio: int = field(default=1, kw_only=True)
    model_version: str | None = field(default=None, kw_only=True)

    @property
    def prefix_cacheable(self) -> bool:
        """Whether the window of a hit is cached, in behaviour 0.33: not if it is computed again."""
        return not self.bounded_replay


@dataclass(frozen=True)
class MambaSpec(KVCacheSpec):
    """Layers with a recurrent state; a block holds the state at its last token.

    `mamba_cache_mode` is `none` (no reuse), `all` (the state of every block is cached) or `align` (only states at
    block boundaries of scheduler steps). `num_speculative_blocks` blocks are held for drafts (facts 37 to 42). With
    `num_prefill_checkpoint_blocks` above 0, behaviour 0.33 also keeps a state from inside the last step of a prompt, of
    which the engine has one each `prefill_checkpoint_alignment` tokens (B87). A `block_size` below 1 token, a negative
    number, or another mode is a ConfigError.
    """

    kind = KVCacheSpecKind.MAMBA
    shapes: tuple[Any, ...]
    dtypes: tuple[Any, ...]
    page_size_padded: int | None = None
    mamba_type: Any = "mamba2"
    mamba_cache_mode: str = "none"
    num_speculative_blocks: int = 0
    num_prefill_checkpoint_blocks: int = field(default=0, kw_only=True)
    prefill_checkpoint_alignment: int | None = field(default=None, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self._keep_size("num_speculative_blocks", 0)
        self._keep_size("num_prefill_checkpoint_blocks", 0)
        if self.prefill_checkpoint_alignment is not None:
            self._keep_size("prefill_checkpoint_alignment", 1)
        mode = self.mamba_cache_mode
        if not isinstance(mode, str) or mode not in MAMBA_CACHE_MODES:
            raise ConfigError(f"mamba_cache_mode must be one of {', '.join(MAMBA_CACHE_MODES)}, got {shown(mode)}")


@dataclass(frozen=True)
class EncoderOnlyAttentionSpec(AttentionSpec):
    """Bidirectional attention without a cache."""

    kind = KVCacheSpecKind.ENCODER_ONLY_ATTENTION


@dataclass(frozen=True)
class CrossAttentionSpec(AttentionSpec):
    """Attention to the encoder's tokens; blocks are allocated for these and never shared.

    A `block_size` below 1 token is a ConfigError; so is prefix caching together with a group of this kind.
    """

    kind = KVCacheSpecKind.CROSS_ATTENTION


@dataclass(frozen=True)
class UniformTypeKVCacheSpecs(KVCacheSpec):
    """Layers of a group by name, differing only in head counts. No layer or a `block_size` below 1 is a ConfigError."""

    kv_cache_specs: dict[str, KVCacheSpec]

    def __post_init__(self) -> None:
        super().__post_init__()
        layers = self.kv_cache_specs
        if not isinstance(layers, dict) or not layers:
            raise ConfigError(f"kv_cache_specs: a dict of specs by layer is expected, got {shown(layers)}")

    @property
    def representative(self) -> KVCacheSpec:
        """The spec of one layer: all layers behave alike."""
        return next(iter(self.kv_cache_specs.values()))

    @property
    def prefix_cacheable(self) -> bool:
        """Whether all layers are cached, in behaviour 0.33."""
        return all(spec.prefix_cacheable for spec in self.kv_cache_specs.values())
