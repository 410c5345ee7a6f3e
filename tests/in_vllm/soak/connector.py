"""`Connector`: a KV connector that finds external tokens at random, and remembers all that the scheduler told it."""

import random
from dataclasses import dataclass
from typing import Any

from vllm.distributed.kv_transfer.kv_connector.factory import KVConnectorFactory
from vllm.distributed.kv_transfer.kv_connector.v1.base import KVConnectorBase_V1, KVConnectorMetadata, SupportsHMA
from vllm.v1.request import RequestStatus

NAME = "SoakConnector"
KVConnectorFactory.register_connector(NAME, __name__, "Connector")


@dataclass
class Metadata(KVConnectorMetadata):
    """What the connector saw of a step."""

    scheduled: list[tuple[str, int]]
    new: list[tuple[str, tuple[list[int], ...]]]
    cached: list[tuple[str, tuple[list[int], ...] | None, int]]


class Connector(KVConnectorBase_V1, SupportsHMA):
    """Most requests find external tokens; a quarter of the finished ones keep their blocks for a while.

    Attributes:
        calls: What the scheduler told since they were last compared.
        loading: Blocks that are filled between steps, by request.
        loaded: Blocks that were filled in the first step of a request, by request.
        sending: Finished requests that keep their blocks.
    """

    def __init__(self, vllm_config: Any, role: Any, kv_cache_config: Any) -> None:
        super().__init__(vllm_config, role, kv_cache_config)
        options = vllm_config.kv_transfer_config.kv_connector_extra_config
        self._rng = random.Random(options["seed"])
        self._unit: int = options["unit"]
        self._block_size: int = options["block_size"]
        self._loads_async: bool = options["loads_async"]
        self._matched: dict[str, tuple[int, bool]] = {}
        self.calls: list[Any] = []
        self.loading: dict[str, list[int]] = {}
        self.loaded: dict[str, list[int]] = {}
        self.sending: dict[str, None] = {}

    def get_num_new_matched_tokens(self, request: Any, num_computed_tokens: int) -> tuple[int | None, bool]:
        """So many whole units at random, but the last token; a load between steps may bring that as well."""
        self.calls.append(("match", request.request_id, num_computed_tokens))
        dice, is_async = self._rng.random(), self._loads_async and self._rng.random() < 0.7
        if dice < 0.03:
            return None, False
        num_tokens = request.num_tokens if request.num_preemptions else request.num_prompt_tokens
        units = (num_tokens - num_computed_tokens - (not is_async)) // self._unit
        if dice < 0.4 or units < 1:
            return 0, False
        self._matched[request.request_id] = (num_computed_tokens, is_async)
        return self._rng.randint(1, units) * self._unit, is_async

    def update_state_after_alloc(self, request: Any, blocks: Any, num_external_tokens: int) -> None:
        """Note the blocks of the first group that external tokens are loaded into."""
        ids = blocks.get_block_ids()
        self.calls.append(("blocks", request.request_id, ids, num_external_tokens))
        if num_external_tokens:
            first, is_async = self._matched.pop(request.request_id)
            filled = ids[0][first // self._block_size : (first + num_external_tokens) // self._block_size]
            (self.loading if is_async else self.loaded)[request.request_id] = filled

    def build_connector_meta(self, scheduler_output: Any) -> Metadata:
        """Look at the whole step, as connectors do that save what was computed."""
        cached = scheduler_output.scheduled_cached_reqs
        return Metadata(
            list(scheduler_output.num_scheduled_tokens.items()),
            [(new.req_id, new.block_ids) for new in scheduler_output.scheduled_new_reqs],
            list(zip(cached.req_ids, cached.new_block_ids, cached.num_computed_tokens, strict=True)),
        )

    def request_finished(self, request: Any, block_ids: list[int]) -> tuple[bool, dict[str, Any] | None]:
        """As for several groups."""
        return self.request_finished_all_groups(request, (block_ids,))

    def request_finished_all_groups(
        self, request: Any, block_ids: tuple[list[int], ...]
    ) -> tuple[bool, dict[str, Any] | None]:
        """Keep the blocks of some requests until they are sent; the scheduler itself keeps those that are loading."""
        name = request.request_id
        self.calls.append(("finished", name, block_ids, request.num_computed_tokens))
        self.loaded.pop(name, None)
        has_failed = request.status is RequestStatus.FINISHED_ERROR
        if name in self.loading or has_failed or self._rng.random() >= 0.25 or not any(block_ids):
            return False, None
        self.sending[name] = None
        return True, {"block_ids": [list(ids) for ids in block_ids]}

    def start_load_kv(self, forward_context: Any, **options: Any) -> None:
        """For workers."""

    def wait_for_layer_load(self, layer_name: str) -> None:
        """For workers."""

    def save_kv_layer(self, *args: Any, **options: Any) -> None:
        """For workers."""

    def wait_for_save(self) -> None:
        """For workers."""
