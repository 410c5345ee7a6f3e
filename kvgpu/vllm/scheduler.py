"""`Scheduler`: vLLM's scheduler, with running requests served from arrays."""

import copy
import logging
from collections import deque
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from vllm.v1.core.sched import async_scheduler, scheduler
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.core.sched.request_queue import SchedulingPolicy

from kvgpu.config.behaviour import BEHAVIOUR_0_23
from kvgpu.environment import vllm_policy
from kvgpu.manager import KVCacheManager
from kvgpu.vllm.array_step import ArrayStep, StepLimits, take_step
from kvgpu.vllm.array_update import append_tokens, is_usual, joined
from kvgpu.vllm.plugin import register
from kvgpu.vllm.running_rows import RunningRows
from kvgpu.vllm.waiting_order import WaitingOrder, waiting_order

logger = logging.getLogger(__name__)

register(is_named=True)

FEW_ROWS = 16
"""With fewer running requests, arrays cost more than they save."""

IN_FLIGHT = 8
"""Steps that wait for an answer of the model at once, at most; the answers to older ones are taken by vLLM."""


@dataclass
class Served:
    """How much a scheduler has served from arrays.

    Attributes:
        steps: All steps.
        array_steps: Steps of which arrays served a part.
        rows: Running requests that were scheduled.
        array_rows: Those of them that arrays served.
        answers: Answers to requests.
        array_answers: Those of them that arrays served.
    """

    steps: int = 0
    array_steps: int = 0
    rows: int = 0
    array_rows: int = 0
    answers: int = 0
    array_answers: int = 0

    def __str__(self) -> str:
        return (
            f"kvgpu served {self.array_steps} of {self.steps} steps, {self.array_rows} of {self.rows} running requests "
            f"in them, and {self.array_answers} of {self.answers} answers from arrays"
        )


class Scheduler(scheduler.Scheduler):  # type: ignore[misc]  # vLLM is not there when types are checked
    """A scheduler of vLLM whose running requests are given slots, and their tokens, all at once.

    Use it as ``--scheduler-cls kvgpu.vllm.Scheduler``. It becomes a subclass of vLLM's `AsyncScheduler` where
    `scheduler_config.async_scheduling` is on, else of its `Scheduler`. What it tells workers and clients is what vLLM's
    would tell them.

    The running requests from the first on, up to one that arrays cannot serve, get their slots in one call; vLLM's own
    `schedule` then serves what is left, and does not see them. So everything unusual takes vLLM's own path in the same
    step. In other versions than 0.23 it serves all.
    """

    _helps = True
    _step: ArrayStep | None = None
    _rows: RunningRows | None = None
    _order: WaitingOrder | None = None
    running: list[Any]
    max_num_running_reqs: int
    max_num_scheduled_tokens: int

    def __new__(cls, *args: Any, **options: Any) -> "Scheduler":
        """Choose the subclass. O(1)."""
        config = options["vllm_config"] if "vllm_config" in options else args[0]
        kind = AsyncScheduler if cls is Scheduler and config.scheduler_config.async_scheduling else cls
        return object.__new__(kind)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        manager = self.kv_cache_manager
        if getattr(manager, "behaviour", BEHAVIOUR_0_23) != BEHAVIOUR_0_23:
            logger.warning("vLLM schedules alone: arrays serve steps of vLLM 0.23 only")
            self._helps = False
            return
        self._unanswered: deque[tuple[Any, ArrayStep]] = deque(maxlen=IN_FLIGHT)
        self._order = waiting_order(vllm_policy(), self.kv_cache_manager, self.waiting)
        # Whether vLLM looks at each scheduled request for more than its counters.
        self._by_vllm = self.use_v2_model_runner or self.enable_return_routed_experts
        self._is_async = isinstance(self, async_scheduler.AsyncScheduler)
        self._limits = StepLimits(
            self.max_num_scheduled_tokens,
            self.scheduler_config.long_prefill_token_threshold,
            self.max_model_len,
            self.num_lookahead_tokens,
            self._is_async,
            self.num_spec_tokens > 0,
        )
        if (
            isinstance(self.kv_cache_manager, KVCacheManager)
            and not self.use_pp
            and not self.is_encoder_decoder
            and not self.need_mamba_block_aligned_split
            and (self.ec_connector is None or self.connector is not None)
        ):
            self._rows = RunningRows(self.kv_cache_manager, self.max_model_len)

    @cached_property
    def served(self) -> Served:
        """What was served from arrays. O(1)."""
        return Served()

    def schedule(self, *args: Any, **options: Any) -> Any:
        """Make the next step, as vLLM does. O(requests that run, and what vLLM takes for those that wait)."""
        if not self._helps:
            return super().schedule(*args, **options)
        held = [] if self._order is None else self._order.arrange(self.waiting, self.running)
        try:
            step = self._take_step()
            output = super().schedule() if step is None else self._schedule_rest(step)
        finally:
            if held:
                self.waiting.extend(held)
        self.served.steps += 1
        self.served.rows += len(output.scheduled_cached_reqs.req_ids)
        return output

    def _schedule_rest(self, step: ArrayStep) -> Any:
        """Have vLLM schedule the requests that arrays have not served."""
        running, limits = self.running, (self.max_num_running_reqs, self.max_num_scheduled_tokens)
        step.note_previous(self.prev_step_scheduled_req_ids)
        self.running = running[step.num_rows :]
        self.max_num_running_reqs -= step.num_rows
        self.max_num_scheduled_tokens -= step.total
        self._step = step
        try:
            output = super().schedule()
        finally:
            self._step = None
            self.running = running[: step.num_rows] + self.running
            self.max_num_running_reqs, self.max_num_scheduled_tokens = limits
        output.num_common_prefix_blocks = self.kv_cache_manager.get_num_common_prefix_blocks(running[0].request_id)
        if step.is_decode:
            self._unanswered.append((output, step))
        self.served.array_steps += 1
        self.served.array_rows += len(step.ids)
        return output

    def _take_step(self) -> ArrayStep | None:
        """Give running requests their slots, if this can be done in one call."""
        rows, num_free = self._rows, None
        if rows is None:
            return None
        if (
            len(self.running) < FEW_ROWS
            or self._pause_state is PauseState.PAUSED_ALL
            # The adapters of running requests limit which of the others may run: vLLM has to see all of them.
            or (self.lora_config and (self.waiting or self.skipped_waiting))
            or not rows.slots.serves()
        ):
            rows.forget()  # a session may leave and come back, with a new end, before the next look
            return None
        rows.enter(self.running)
        if len(rows.requests) < FEW_ROWS:
            return None
        if self.policy is SchedulingPolicy.PRIORITY:
            # Any request may have to give way to any other.
            num_free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        step = take_step(rows, self._limits, num_free)
        if step is None or step.num_rows < len(rows.requests):
            rows.forget()  # perhaps one has lost its blocks
        return step

    def _merge(self, output: Any, step: ArrayStep) -> None:
        """Put the requests that arrays have served into a `SchedulerOutput`."""
        if not step.merged:
            step.merge_into(output)
            self.prev_step_scheduled_req_ids.update(step.ids)

    def _build_kv_connector_meta(self, connector: Any, scheduler_output: Any) -> Any:
        """Let a connector see all requests of the step."""
        if self._step is not None:
            self._merge(scheduler_output, self._step)
        return super()._build_kv_connector_meta(connector, scheduler_output)

    def _update_after_schedule(self, scheduler_output: Any) -> None:
        """Count the scheduled tokens as computed. O(requests)."""
        step = self._step
        if step is None or self._rows is None:
            super()._update_after_schedule(scheduler_output)
            return
        if not step.is_decode or self._rows.has_structured or self._by_vllm:
            self._merge(scheduler_output, step)
        by_vllm = step.merged
        super()._update_after_schedule(scheduler_output)
        if by_vllm:
            return
        self._merge(scheduler_output, step)
        step.advance(self._is_async)
        self._inflight_prefills.difference_update(step.requests)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take the answer of the model to a step, as vLLM does. O(requests of the step)."""
        scheduled = scheduler_output.num_scheduled_tokens
        if self._rows is None:
            return super().update_from_output(scheduler_output, model_runner_output)
        self.served.answers += len(scheduled)
        step = next((step for output, step in self._unanswered if output is scheduler_output), None)
        if step is None or self.perf_metrics is not None or not is_usual(model_runner_output):
            return super().update_from_output(scheduler_output, model_runner_output)
        self._unanswered = deque((each for each in self._unanswered if each[1] is not step), IN_FLIGHT)
        cache = self.kv_cache_manager.cache_blocks if self._is_async else None
        size = self.kv_cache_manager.coordinator.hash_block_size
        made = append_tokens(step, model_runner_output, size, cache)
        self.served.array_answers += len(made)
        rest = copy.copy(scheduler_output)
        rest.num_scheduled_tokens = {name: count for name, count in scheduled.items() if name not in made}
        return joined(scheduled, made, super().update_from_output(rest, model_runner_output))

    def shutdown(self) -> None:
        """End, and log what was served from arrays."""
        logger.info("%s", self.served)
        super().shutdown()


class AsyncScheduler(Scheduler, async_scheduler.AsyncScheduler):  # type: ignore[misc]
    """`Scheduler` for asynchronous scheduling."""
