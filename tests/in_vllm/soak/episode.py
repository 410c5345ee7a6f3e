"""`Episode`: two schedulers under one workload, compared at every step."""

import random
import traceback
from collections import Counter, deque
from collections.abc import Callable, Iterable
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest import mock

import msgspec
from in_vllm.soak.comparison import Difference, same
from in_vllm.soak.listed_differences import name_of
from in_vllm.soak.model_runner import ModelRunner, copies
from in_vllm.soak.scenario import Scenario
from in_vllm.soak.sides import Side, make_sides
from in_vllm.soak.states import IS_0_33, same_managers, same_requests
from in_vllm.soak.workload import ABORT_ALL, Action, Workload
from vllm.v1.core import kv_cache_metrics

from kvgpu.vllm import scheduler as array_scheduler

MANAGERS_EVERY = 15
"""Steps after which the managers are compared."""

MOST_STEPS, MOST_STEPS_TO_END = 2000, 500


class Ended(Exception):
    """Both sides raised an exception of the same type."""


@dataclass
class InFlight:
    """A step that the model has not answered yet."""

    outputs: tuple[Any, Any]
    generating: set[str]


class Clock:
    """Stands in for the module `time` where residency of blocks is measured: all of a step is at one time."""

    def __init__(self) -> None:
        self.step = 0

    def monotonic_ns(self) -> int:
        """A second for each step."""
        return self.step * 1_000_000_000


class Episode:
    """
    Args:
        scenario: What it is made from.
        mode: One of `MODES`.

    Attributes:
        counts: What happened.
        ending: By which exception both sides ended it, or by which listed difference; None if by neither.
        is_listed: Whether it is a listed difference.

    Raises:
        Difference: Another class serves than should.
    """

    def __init__(self, scenario: Scenario, mode: str) -> None:
        self.scenario = scenario
        self.sides, self.fallbacks = make_sides(scenario, mode)
        self.schedulers = [side.scheduler for side in self.sides]
        self.counts: Counter[str] = Counter()
        self.ending: str | None = None
        self.is_listed = False
        rng = random.Random(f"{scenario.seed} {scenario.number} workload")
        self._workload = Workload(scenario, rng)
        self._model = ModelRunner(scenario, rng)
        self._in_flight: deque[InFlight] = deque()
        self._depth = 2 if {"async_scheduling", "sync_two_deep"} & scenario.features else 1
        self._clock = Clock()

    @property
    def step(self) -> int:
        """Number of the step."""
        return self._clock.step

    def run(self) -> None:
        """Serve until so many requests were scheduled as the scenario wants, and then all that are left.

        Raises:
            Difference: The sides differ, in a manner that is not listed.
        """
        few_rows = self.scenario.few_rows or array_scheduler.FEW_ROWS
        try:
            with (
                mock.patch.object(kv_cache_metrics, "time", self._clock),
                mock.patch.object(array_scheduler, "FEW_ROWS", few_rows),
            ):
                self._run()
        except Ended as ended:
            self.ending = str(ended)
        except Difference as difference:
            self.ending = name_of(difference, self.sides, self.scenario.longest)
            if self.ending is None:
                raise
            self.is_listed = True

    def _run(self) -> None:
        scheduler, workload = self.schedulers[0], self._workload
        while self.counts["request-steps"] < self.scenario.length and self.step < MOST_STEPS:
            self._advance(workload.before_step(scheduler))
        most = self.step + MOST_STEPS_TO_END
        while (scheduler.requests or self._in_flight) and self.step < most:
            self._advance(workload.ending(scheduler))
        # Sessions that hold blocks and wait for more may block each other for ever.
        self.counts["requests left at the end"] += len(scheduler.requests)
        self._advance([ABORT_ALL])
        same_managers(*self.sides)

    def _both(self, what: str, run: Callable[[Side], Any]) -> tuple[Any, Any]:
        """Call both sides.

        Raises:
            Ended: Both raised an exception of the same type.
            Difference: Only one did, or they are of different types.
        """
        results: list[Any] = []
        errors: list[Exception | None] = []
        for side in self.sides:
            # The collector of cache metrics draws its samples from the global generator.
            random.seed(self.step)
            try:
                results.append(run(side))
                errors.append(None)
            except Exception as error:
                results.append(error)
                errors.append(error)
        theirs, ours = errors
        if theirs is not None and isinstance(ours, type(theirs)):
            # An assertion of vLLM often has no text.
            raised = traceback.extract_tb(theirs.__traceback__)[-1]
            raise Ended(f"{what}: {type(theirs).__name__} in {raised.name}: {(str(theirs) or raised.line)[:80]}")
        if theirs is not None or ours is not None:
            raise Difference(what, *results) from ours or theirs
        return results[0], results[1]

    def _act(self, actions: Iterable[Action]) -> None:
        for action in actions:
            results = self._both(action.name, action.run)
            same(f"answer to {action.name}", *results)
            self.counts[f"{action.name}: actions"] += 1
            if action.name == "abort":
                self.counts["aborted requests"] += len(results[0])

    def _advance(self, actions: Iterable[Action]) -> None:
        """Do the actions, schedule a step, and answer the oldest one if enough are in flight."""
        self._clock.step += 1
        self._act(actions)
        if self.schedulers[0].has_requests():
            self._schedule()
            if len(self._in_flight) < self._depth:
                return
        if self._in_flight:
            self._answer()

    def _schedule(self) -> None:
        served = getattr(self.schedulers[1], "served", None)
        before = 0 if served is None else served.array_rows
        # From its number alone: a generator would draw other workloads for vLLM 0.23.
        given = (self.step % 10 < 10 * self.scenario.throttles,) if IS_0_33 and self.scenario.throttles else ()
        outputs = self._both("schedule", lambda side: side.scheduler.schedule(*given))
        same("SchedulerOutput", *outputs)
        self._same_states()
        output, scheduler = outputs[0], self.schedulers[0]
        counts = self.counts
        counts["steps"] += 1
        counts["request-steps"] += len(output.num_scheduled_tokens)
        counts["preemptions"] += len(output.preempted_req_ids)
        counts["draft tokens"] += sum(map(len, output.scheduled_spec_decode_tokens.values()))
        # What arrays have served comes first.
        decodes = [count > 0 for count in output.scheduled_cached_reqs.num_output_tokens]
        counts["decode rows"] += sum(decodes)
        counts["decode rows from arrays"] += sum(decodes[: 0 if served is None else served.array_rows - before])
        counts["steps with 8 requests or more"] += len(output.num_scheduled_tokens) >= 8
        generating = {name for name in output.num_scheduled_tokens if not scheduler.requests[name].is_prefill_chunk}
        if "structured_output" in self.scenario:
            self._mask(outputs)
        self._in_flight.append(InFlight(outputs, generating))

    def _mask(self, outputs: tuple[Any, Any]) -> None:
        """Compute the masks of grammars; tokens that they need come with the answer to the step before."""
        if outputs[0].pending_structured_output_tokens and self._in_flight:
            self._answer()
            if self.scenario.num_drafts:
                drafts = iter(copies(self._model.drafts(outputs[0])))
                given = iter(outputs)
                self._both(
                    "drafts", lambda side: side.scheduler.update_draft_token_ids_in_output(next(drafts), next(given))
                )
                same("SchedulerOutput with drafts", *outputs)
        masked = iter(outputs)
        same("masks", *self._both("masks", lambda side: side.scheduler.get_grammar_bitmask(next(masked))))

    def _answer(self) -> None:
        """Answer the oldest step."""
        self._act(self._workload.aborts(self.schedulers[0], 0.01))
        step = self._in_flight.popleft()
        if self._depth > 1:
            # A later step may not have changed it.
            same("SchedulerOutput in flight", *step.outputs)
        connectors = [scheduler.connector for scheduler in self.schedulers]
        answer = self._model.answer(self.schedulers[0], connectors, step.outputs[0], step.generating)
        answers = iter(zip(step.outputs, copies(answer), strict=True))
        results = self._both("update_from_output", lambda side: side.scheduler.update_from_output(*next(answers)))
        same("EngineCoreOutputs", *results)
        for transfers in filter(None, [answer.kv_connector_output]):
            self.counts["loads finished"] += len(transfers.finished_recving)
            self.counts["sends finished"] += len(transfers.finished_sending)
            self.counts["invalid blocks"] += len(transfers.invalid_block_ids)
        self._same_events()
        if self.scenario.num_drafts and "async_scheduling" not in self.scenario:
            drafts = self._model.drafts(step.outputs[0])
            self._both("drafts", lambda side: side.scheduler.update_draft_token_ids(deepcopy(drafts)))
        self._same_states()
        if self.step % MANAGERS_EVERY == 0:
            same_managers(*self.sides)
            self.counts["comparisons of managers"] += 1

    def _same_events(self) -> None:
        encoded = []
        for side in self.sides:
            for batch in side.publisher.batches:
                batch.ts = 0.0
            encoded.append([msgspec.msgpack.encode(batch) for batch in side.publisher.batches])
            side.publisher.batches.clear()
        same("KV events", *encoded)
        self.counts["batches of KV events"] += len(encoded[0])

    def _same_states(self) -> None:
        same_requests(*self.schedulers)
        if self.schedulers[0].connector is not None:
            same("calls of the connector", *[scheduler.connector.calls for scheduler in self.schedulers])
            for scheduler in self.schedulers:
                scheduler.connector.calls.clear()
