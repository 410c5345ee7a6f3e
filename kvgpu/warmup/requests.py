"""`PlainRequest`: what a manager reads of a request of an engine."""

from dataclasses import dataclass


@dataclass
class PlainRequest:
    """A request with its hashes in a list; all of its tokens are 0."""

    request_id: str
    block_hashes: list[bytes]
    num_tokens: int
    num_prompt_tokens: int
    num_computed_tokens: int = 0
    num_preemptions: int = 0
    skip_reading_prefix_cache: bool = False
    lora_request: None = None
    cache_salt: None = None
    prompt_embeds: None = None
    mm_features: tuple[()] = ()

    @property
    def all_token_ids(self) -> list[int]:
        """The tokens, a new list. O(tokens)."""
        return [0] * self.num_tokens
