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
from kvgpu.vllm.array_step import ArrayStep, StepLimits, complete, count_step, take_step
from kvgpu.vllm.array_update import AnswerRules, append_tokens, is_usual, joined
from kvgpu.vllm.left_to_vllm import is_left_to_vllm, longest_chunk, takes_all
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
    step.
    """

    _step: ArrayStep | None = None
    _rows: RunningRows | None = None
    _order: WaitingOrder | None = None
    running: list[Any]
    max_num_running_reqs: int
    max_num_active_reqs: int
    max_num_scheduled_tokens: int

    def __new__(cls, *args: Any, **options: Any) -> "Scheduler":
        """Choose the subclass. O(1)."""
        config = options["vllm_config"] if "vllm_config" in options else args[0]
        kind = AsyncScheduler if cls is Scheduler and config.scheduler_config.async_scheduling else cls
        return object.__new__(kind)

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._unanswered: deque[tuple[Any, ArrayStep]] = deque(maxlen=IN_FLIGHT)
        self._order = waiting_order(vllm_policy(), self.kv_cache_manager, self.waiting)
        if is_left_to_vllm(self):
            return
        manager = self.kv_cache_manager
        self._is_0_23 = manager.behaviour == BEHAVIOUR_0_23
        self._is_async = isinstance(self, async_scheduler.AsyncScheduler)
        # Whether vLLM looks at each scheduled request for more than its counters.
        if self._is_0_23:
            self._by_vllm = self.use_v2_model_runner or self.enable_return_routed_experts
        else:
            self._by_vllm = self._is_async and self.num_spec_tokens > 0
        caches = self._is_async or (not self._is_0_23 and self.num_spec_tokens > 0)
        self._rules = AnswerRules(
            manager.coordinator.hash_block_size,
            self._is_async,
            not self._is_0_23,
            manager.cache_blocks if caches else None,
        )
        self._limits = StepLimits(
            self.max_num_scheduled_tokens,
            self.max_model_len,
            self.num_lookahead_tokens,
            self._is_async,
            self.num_spec_tokens > 0,
            not self._is_0_23,
        )
        self._rows = RunningRows(manager, self.max_model_len)

    @cached_property
    def served(self) -> Served:
        """What was served from arrays. O(1)."""
        return Served()

    def schedule(self, *args: Any, **options: Any) -> Any:
        """Make the next step, as vLLM does. O(requests that run, and what vLLM takes for those that wait)."""
        held = [] if self._order is None else self._order.arrange(self.waiting, self.running)
        try:
            # The only argument is a switch: whether prompts should wait.
            throttles = any((*args, *options.values()))
            step = self._take_step(throttles)
            output = super().schedule(*args, **options) if step is None else self._schedule_rest(step, args, options)
        finally:
            if held:
                self.waiting.extend(held)
        self.served.steps += 1
        self.served.rows += len(output.scheduled_cached_reqs.req_ids)
        return output

    def _schedule_rest(self, step: ArrayStep, args: Any, options: Any) -> Any:
        """Have vLLM schedule the requests that arrays have not served."""
        running, limits = self.running, (self.max_num_running_reqs, self.max_num_scheduled_tokens)
        if self._is_0_23 or not self.use_v2_model_runner:
            step.note_previous(self.prev_step_scheduled_req_ids)
        self.running = running[step.num_rows :]
        self.max_num_running_reqs -= step.num_rows
        self.max_num_scheduled_tokens -= step.total
        if not self._is_0_23:
            self.max_num_active_reqs -= step.num_rows
        self._step = step
        try:
            output = super().schedule(*args, **options)
        finally:
            self._step = None
            self.running = running[: step.num_rows] + self.running
            self.max_num_running_reqs, self.max_num_scheduled_tokens = limits
            if not self._is_0_23:
                self.max_num_active_reqs += step.num_rows
        if self._is_0_23:
            output.num_common_prefix_blocks = self.kv_cache_manager.get_num_common_prefix_blocks(running[0].request_id)
        if step.is_decode:
            self._unanswered.append((output, step))
        self.served.array_steps += 1
        self.served.array_rows += len(step.ids)
        return output

    def get_request_counts(self) -> tuple[int, int]:
        """Return how many requests run, and how many wait. O(1)."""
        running, waiting = super().get_request_counts()
        return running + (0 if self._step is None else self._step.num_rows), waiting

    def _take_step(self, throttles: bool) -> ArrayStep | None:
        """Give running requests their slots, if this can be done in one call."""
        rows, num_free, most = self._rows, None, None
        if rows is None:
            return None
        waits = self.get_request_counts()[1] > 0
        if (
            len(self.running) < FEW_ROWS
            or self._pause_state is PauseState.PAUSED_ALL
            or takes_all(self, waits, throttles)
            or not rows.slots.serves()
        ):
            rows.forget()  # a session may leave and come back, with a new end, before the next look
            return None
        rows.enter(self.running)
        if len(rows.requests) < FEW_ROWS:
            return None
        if self.kv_cache_manager.hints is not None:
            self.kv_cache_manager.hints.begin_batch()
        if waits and self.kv_cache_manager.watermark_blocks:
            most = len(self.running) - 1  # vLLM sees that some request runs, beside which others leave blocks free
        if self.policy is SchedulingPolicy.PRIORITY:
            # Any request may have to give way to any other.
            num_free = self.kv_cache_manager.block_pool.get_num_free_blocks()
        step = take_step(rows, self._limits, longest_chunk(self), most, num_free)
        if step is None or step.num_rows < len(rows.requests):
            rows.forget()  # perhaps one has lost its blocks
        return step

    def _merge(self, output: Any, step: ArrayStep) -> None:
        """Put the requests that arrays have served into a `SchedulerOutput`."""
        if step.merged:
            return
        is_alone = not output.total_num_scheduled_tokens
        step.merge_into(output)
        if self._is_0_23 or not self.use_v2_model_runner:
            self.prev_step_scheduled_req_ids.update(step.ids)
        if not self._is_0_23:
            complete(self, output, step)
            if is_alone and step.total:
                count_step(self)

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
        # Blocks that are freed wait for the last step that a request was in, which vLLM notes.
        notes_steps = not self._is_0_23 and self.defer_block_free
        if not step.is_decode or self._rows.has_structured or self._by_vllm or notes_steps:
            self._merge(scheduler_output, step)
        by_vllm = step.merged
        super()._update_after_schedule(scheduler_output)
        if by_vllm:
            return
        self._merge(scheduler_output, step)
        step.advance(self._limits)
        if self._is_async and self.use_v2_model_runner:
            step.note_next(self.current_step + self.decode_stagger)
        self._inflight_prefills.difference_update(step.requests)

    def update_from_output(self, scheduler_output: Any, model_runner_output: Any) -> Any:
        """Take the answer of the model to a step, as vLLM does. O(requests of the step)."""
        scheduled = scheduler_output.num_scheduled_tokens
        if self._rows is None:
            return super().update_from_output(scheduler_output, model_runner_output)
        self.served.answers += len(scheduled)
        step = next((step for output, step in self._unanswered if output is scheduler_output), None)
        if step is None or self.perf_metrics is not None or self._has_refused() or not is_usual(model_runner_output):
            return super().update_from_output(scheduler_output, model_runner_output)
        self._unanswered = deque((each for each in self._unanswered if each[1] is not step), IN_FLIGHT)
        made = append_tokens(step, model_runner_output, self._rules)
        self.served.array_answers += len(made)
        rest = copy.copy(scheduler_output)
        rest.num_scheduled_tokens = {name: count for name, count in scheduled.items() if name not in made}
        return joined(scheduled, made, super().update_from_output(rest, model_runner_output))

    def _has_refused(self) -> bool:
        """Whether clients are to be told of requests that cannot be served, which need not be in a step."""
        return not self._is_0_23 and bool(self.grammar_compile_error_reqs or self.encoder_cache_mismatch_reqs)

    def shutdown(self) -> None:
        """End, and log what was served from arrays."""
        logger.info("%s", self.served)
        super().shutdown()


class AsyncScheduler(Scheduler, async_scheduler.AsyncScheduler):  # type: ignore[misc]
    """`Scheduler` for asynchronous scheduling."""
