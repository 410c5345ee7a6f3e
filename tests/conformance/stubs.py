"""Stand-ins for the vLLM classes that suites pass to requests: data without behaviour."""

from dataclasses import dataclass
from typing import Any


@dataclass
class LoRARequest:
    """Adapter of a request."""

    lora_name: str
    lora_int_id: int
    lora_path: str = ""

    @property
    def adapter_id(self) -> int:
        return self.lora_int_id


@dataclass(frozen=True)
class PlaceholderRange:
    """Tokens that stand for one multimodal item."""

    offset: int
    length: int
    is_embed: Any = None


class MultiModalKwargsItem(dict[str, Any]):
    """Inputs of one multimodal item."""

    @classmethod
    def dummy(cls, nbytes: int = 1) -> "MultiModalKwargsItem":
        return cls(dummy=bytes(nbytes))


@dataclass
class MultiModalFeatureSpec:
    """One multimodal item and where it is."""

    data: MultiModalKwargsItem | None
    modality: str
    identifier: str
    mm_position: PlaceholderRange
    mm_hash: str | None = None


@dataclass
class SamplingParams:
    """What the cache reads of the sampling parameters."""

    max_tokens: int | None = 16
    prompt_logprobs: int | None = None
    skip_reading_prefix_cache: bool | None = None

    def update_from_generation_config(self, generation_config: dict[str, Any], eos_token_id: int | None = None) -> None:
        """Stop tokens do not matter to the cache."""
