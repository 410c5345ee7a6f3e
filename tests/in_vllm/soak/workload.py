"""`Workload`: what clients and operators do to both schedulers between their steps."""

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from in_vllm.soak.drawn_requests import Prompts, draw_request, make_request
from in_vllm.soak.grammar import compile_grammar
from in_vllm.soak.scenario import Scenario
from in_vllm.soak.sides import Side
from vllm.v1.core.sched.interface import PauseState
from vllm.v1.request import Request, RequestStatus

MOST_NEW = 4
"""Requests that come in one step, but for the first."""


@dataclass
class Action:
    """Something that is done to both sides."""

    name: str
    run: Callable[[Side], Any]


class Workload:
    """Draws actions; what they depend on is read from one scheduler, as the other is equal.

    Args:
        scenario: Of the episode.
        rng: Decides.
    """

    def __init__(self, scenario: Scenario, rng: random.Random) -> None:
        self._scenario = scenario
        self._rng = rng
        self._prompts = Prompts(rng, scenario.longest)
        self._num_requests = 0
        self._clock = 0.0

    def before_step(self, scheduler: Any) -> Iterator[Action]:
        """Actions before the next step."""
        rng, scenario = self._rng, self._scenario
        wanted = int(scenario.most_running * scenario.load) - len(scheduler.running) - len(scheduler.waiting)
        if wanted > 0 and (rng.random() < 0.5 or not scheduler.running):
            for _ in range(rng.randint(1, MOST_NEW) if self._num_requests else wanted):
                yield self._add()
        yield from self.aborts(scheduler, 0.04)
        if "streaming" in scenario and rng.random() < 0.4:
            yield from self._continue_session(scheduler)
        if "structured_output" in scenario and rng.random() < 0.5:
            yield self._compile_grammars()
        if "resets" in scenario and rng.random() < 0.05:
            reset_connector = rng.random() < 0.2
            yield Action("reset", lambda side: side.scheduler.reset_prefix_cache(reset_connector=reset_connector))
        if "resets_of_running" in scenario and rng.random() < 0.03 and not _holds_blocks(scheduler):
            yield Action(
                "reset of running", lambda side: side.scheduler.reset_prefix_cache(reset_running_requests=True)
            )
        if "pauses" in scenario:
            yield from self._pause(scheduler)

    def aborts(self, scheduler: Any, chance: float) -> Iterator[Action]:
        """Perhaps an abort; also between a step and its answer."""
        rng = self._rng
        if "aborts" not in self._scenario or rng.random() >= chance or not scheduler.requests:
            return
        names = [*rng.choices(list(scheduler.requests), k=rng.choice([1, 1, 1, 2, 4])), "unknown"]
        yield ABORT_ALL if rng.random() < 0.01 else _aborting(names)

    def ending(self, scheduler: Any) -> Iterator[Action]:
        """Actions that let everything come to its end."""
        if scheduler.pause_state is not PauseState.UNPAUSED:
            yield _pausing("UNPAUSED")
        if "structured_output" in self._scenario:
            yield self._compile_grammars()
        for request in list(scheduler.requests.values()):
            if request.resumable and None not in request.streaming_queue and not request.is_finished():
                yield self._close_session(request.request_id)

    def _add(self) -> Action:
        self._num_requests += 1
        self._clock += self._rng.choice([0, 1])
        name = f"r{self._num_requests}"
        drawn = draw_request(self._rng, self._scenario, name, self._prompts.draw(), self._clock)
        return Action("add", lambda side: side.scheduler.add_request(make_request(drawn, side.hasher)))

    def _continue_session(self, scheduler: Any) -> Iterator[Action]:
        """The next piece of input of a session, or its end."""
        rng = self._rng
        sessions = [
            each
            for each in scheduler.requests.values()
            if each.resumable and not each.is_finished() and None not in each.streaming_queue
        ]
        if not sessions:
            return
        session = rng.choice(sessions)
        tokens = self._prompts.words(rng.choice([1, 5, 20]))
        # The longest that it can be when its turn comes.
        reached = session.num_tokens
        if session.status is not RequestStatus.WAITING_FOR_STREAMING_REQ:
            reached = session.num_prompt_tokens + session.max_tokens
        queued = sum(len(each.prompt_token_ids) + session.max_tokens for each in session.streaming_queue)
        fits = reached + queued + len(tokens) < self._scenario.longest
        if rng.random() < 0.1 or not (fits or self._scenario.grows_too_long):
            yield self._close_session(session.request_id)
            return
        self._clock += 1
        drawn = draw_request(rng, self._scenario, session.request_id, tokens, self._clock)
        drawn = {key: value for key, value in drawn.items() if key != "images"} | {"resumable": True}
        yield Action("continue", lambda side: side.scheduler.add_request(make_request(drawn, side.hasher)))

    def _close_session(self, name: str) -> Action:
        drawn = {
            "request_id": name,
            "prompt_token_ids": [0],
            "arrival_time": self._clock,
            "params": {"max_tokens": 1},
            "resumable": False,
        }
        return Action("close", lambda side: side.scheduler.add_request(make_request(drawn, side.hasher)))

    def _compile_grammars(self) -> Action:
        def compile_all(side: Side) -> list[str]:
            requests = list(side.scheduler.requests.values())
            return [request.request_id for request in requests if compile_grammar(request)]

        return Action("grammars", compile_all)

    def _pause(self, scheduler: Any) -> Iterator[Action]:
        is_paused = scheduler.pause_state is not PauseState.UNPAUSED
        if self._rng.random() < (0.5 if is_paused else 0.05):
            yield _pausing("UNPAUSED" if is_paused else self._rng.choice(["PAUSED_NEW", "PAUSED_ALL"]))


def _aborting(names: list[str] | None) -> Action:
    def abort(side: Side) -> list[Any]:
        ended = side.scheduler.finish_requests(names, RequestStatus.FINISHED_ABORTED)
        # Since 0.28 vLLM returns the requests, and their clients before.
        return [(each.request_id, each.client_index) if isinstance(each, Request) else each for each in ended]

    return Action("abort", abort)


ABORT_ALL = _aborting(None)


def _pausing(state: str) -> Action:
    return Action("pause", lambda side: side.scheduler.set_pause_state(PauseState[state]))


def _holds_blocks(scheduler: Any) -> bool:
    """Whether a request that does not run holds blocks, which vLLM cannot reset."""
    return any(
        request.num_computed_tokens and request.status is not RequestStatus.RUNNING
        for request in scheduler.requests.values()
    )
