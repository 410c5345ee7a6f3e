"""`RunningRows`: what is the same in every step of the requests that a scheduler of vLLM runs."""

from collections.abc import Collection
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from kvgpu.allocation.running_slots import RunningSlots
from kvgpu.allocation.running_tokens import AFTER_INPUTS, COLUMNS, ENDS
from kvgpu.manager import KVCacheManager

Counts = npt.NDArray[np.int64]


class Answered(NamedTuple):
    """A request whose new tokens need nothing but to be appended and passed on, until one of `stops` comes."""

    request: Any
    append_output: Any
    append_token: Any
    all_token_ids: list[int]
    stops: Collection[int]
    """Tokens that may end it."""
    limit: int
    """Number of tokens at which it ends."""
    client: int


class RunningRows:
    """The requests that run, in order, as columns.

    Args:
        manager: Whose blocks they hold.
        max_model_len: In tokens.

    Attributes:
        slots: Gives them slots.
        running: All requests that were entered.
        requests: Those from the first on that arrays can serve.
        ids: Their names.
        token_ids: Their tokens; a list of a request is always the same.
        output_ids: Those of them that were generated.
        columns: int64 [COLUMNS, n], numbers of all of them; a step writes those that change.
        has_structured: Whether the answer of any must follow a grammar.
        answered: For each, how it is served when it has a new token; None if it is not as usual.
    """

    def __init__(self, manager: KVCacheManager, max_model_len: int) -> None:
        self.slots = RunningSlots(manager.slots)
        self._hash_block_size = manager.coordinator.hash_block_size
        # A hash that covers tokens after its block comes later, which only the hasher knows.
        self._looks_ahead = manager.coordinator.block_pool.num_hash_lookahead_tokens > 0
        self._max_model_len = max_model_len
        self._known: dict[str, tuple[Any, Answered | None]] = {}
        self.running: list[Any] = []
        self._set([])

    def enter(self, running: list[Any]) -> None:
        """Take over the requests that run now; nothing is done if they are the same. O(requests)."""
        if running == self.running:
            return
        self.running = running.copy()
        self._set(running[: self.slots.enter(running)])

    def forget(self) -> None:
        """Look at all requests anew the next time. O(1)."""
        self.running = []
        self._known = {}

    def _set(self, requests: list[Any]) -> None:
        self.requests = requests
        self.ids: list[str] = [request.request_id for request in requests]
        self.token_ids: list[list[int]] = [request._all_token_ids for request in requests]
        self.output_ids: list[list[int]] = [request._output_token_ids for request in requests]
        self.columns: Counts = np.zeros((COLUMNS, len(requests)), np.int64)
        self.columns[ENDS] = [request.num_prompt_tokens + request.max_tokens for request in requests]
        self.columns[AFTER_INPUTS] = [_after_inputs(request) for request in requests]
        self.has_structured = any(request.structured_output_request is not None for request in requests)
        known = self._known
        self._known = {}
        self.answered: list[Answered | None] = []
        for name, request in zip(self.ids, requests, strict=True):
            was = known.get(name)
            facts = (request, self._answered(request)) if was is None or was[0] is not request else was
            self._known[name] = facts
            self.answered.append(facts[1])

    def _answered(self, request: Any) -> Answered | None:
        params, tokens, outputs = request.sampling_params, request._all_token_ids, request._output_token_ids
        if (
            params is None
            or request.pooling_params is not None
            or request.structured_output_request is not None
            or params.num_logprobs is not None
            or params.repetition_detection is not None
            or request.mm_features
            or request.trace_headers is not None
            # A session stops, and goes on with other limits as the same request.
            or request.resumable
            or self._looks_ahead
            or len(request.block_hashes) != (len(tokens) // self._hash_block_size if request._block_hasher else 0)
        ):
            return None
        stops = frozenset(
            chain(params.stop_token_ids or (), () if params.eos_token_id is None else (params.eos_token_id,))
        )
        limit = min(self._max_model_len, len(tokens) - len(outputs) + request.max_tokens)
        return Answered(request, outputs.append, tokens.append, tokens, stops, limit, request.client_index)


def _after_inputs(request: Any) -> int:
    features = request.mm_features
    return max((each.mm_position.offset + each.mm_position.length for each in features), default=0)
