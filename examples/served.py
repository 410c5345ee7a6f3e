"""`Served`: what one side did with all requests, in a process of its own."""

import argparse
import logging
import os
import warnings
from collections.abc import Generator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from statistics import median
from time import thread_time_ns as now
from typing import Any

VERSION = "0.23.0"
SIDES = {"vLLM alone": (False, False), "plug-in": (True, False), "plug-in and Scheduler": (True, True)}
"""By name: whether the plug-in is loaded, and whether kvgpu's scheduler is named."""
STOP_TOKEN_IDS = list(range(16))
"""Some requests end with one of these, which no scheduler can foresee."""

Prompts = dict[str, tuple[list[int], int]]
"""By the name of a request: its prompt, and how many tokens it generates at most."""


@dataclass
class Served:
    """What one side did.

    Attributes:
        manager, scheduler, hasher: Names of those who served.
        arrays: What `kvgpu.vllm.Scheduler` says of its own share.
        tokens, true_tokens: What each request generated, and what it generates without a cache.
        cached_tokens: Tokens that were not computed, since they were found in the prefix cache.
        chunks: Times that a part of what a request lacked was computed.
        new_blocks: Blocks that were given out to be written; if they are more than the pool has, some were evicted.
        preemptions: Times that a request was resumed after it had lost its blocks.
        step_us: CPU time of `schedule` and `update_from_output` in each step.
        planted: The request whose blocks were told wrong.
    """

    side: str
    manager: str
    scheduler: str
    hasher: str
    arrays: str
    tokens: dict[str, list[int]]
    true_tokens: dict[str, list[int]]
    cached_tokens: int
    chunks: int
    new_blocks: int
    preemptions: int
    step_us: list[float]
    planted: str | None

    def ratio_to(self, other: "Served") -> float:
        """How many times longer the other took; the median of all steps, which were taken in turn. O(steps)."""
        return median(theirs / ours for ours, theirs in zip(self.step_us, other.step_us, strict=False))

    def figures(self, other: "Served") -> dict[str, Any]:
        """All but the tokens, with times and their ratio to another side in one number each. O(steps)."""
        figures = {**vars(self), "tokens": sum(map(len, self.tokens.values())), "steps": len(self.step_us)}
        del figures["true_tokens"]
        return {**figures, "step_us": median(self.step_us), "ratio": self.ratio_to(other)}

    def difference(self) -> str:
        """Say which requests have wrong tokens, and the first wrong token; nothing if all are right. O(tokens)."""
        wrong = [name for name, tokens in self.tokens.items() if tokens != self.true_tokens[name]]
        if not wrong:
            return ""
        got, true = self.tokens[wrong[0]], self.true_tokens[wrong[0]]
        words = f"has {len(got)} tokens instead of {len(true)}"
        for place, pair in enumerate(zip(got, true, strict=False)):
            if pair[0] != pair[1]:
                words = f"token {place} is {pair[0]} instead of {pair[1]}"
                break
        more = f"; {len(wrong) - 1} more have wrong tokens: {', '.join(wrong[1:])}" if wrong[1:] else ""
        return f"{self.side}: request {wrong[0]}, {words}{more}"


class TimedScheduler:
    """Takes the place of a scheduler in an engine core, and adds up the CPU time of its two calls of a step, in ns."""

    def __init__(self, scheduler: Any) -> None:
        self._scheduler = scheduler
        self.total = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scheduler, name)

    def schedule(self) -> Any:
        return self._timed(self._scheduler.schedule)

    def update_from_output(self, *args: Any) -> Any:
        return self._timed(self._scheduler.update_from_output, *args)

    def _timed(self, call: Any, *args: Any) -> Any:
        start = now()
        made = call(*args)
        self.total += now() - start
        return made


def serve(options: argparse.Namespace, side: str, prompts: Prompts) -> Generator[int, None, Served]:
    """Serve all requests, and say after each step how many have ended since the one before.

    Raises:
        ImportError: vLLM 0.23.0 or the plug-in is missing.
    """
    has_plug_in, has_scheduler = SIDES[side]
    import vllm

    if not vllm.__version__.startswith(VERSION):
        raise ImportError(f"this is vLLM {vllm.__version__}, not {VERSION}")
    from offline_core import add_request, make_core
    from stand_in import tokens_without_cache

    core = make_core(options, "kvgpu.vllm.Scheduler" if has_scheduler else None, options.plant and has_scheduler)
    scheduler, worker = core.scheduler, core.model_executor
    manager = name_of(type(scheduler.kv_cache_manager))
    if has_plug_in != manager.startswith("kvgpu."):
        raise ImportError(f"{side}: {manager} serves; is kvgpu installed in this environment?")
    core.scheduler = clock = TimedScheduler(scheduler)
    for name, (prompt, most) in prompts.items():
        add_request(core, name, prompt, most, STOP_TOKEN_IDS)
    tokens: dict[str, list[int]] = {name: [] for name in prompts}
    times = []
    while scheduler.has_requests() or core.batch_queue:
        clock.total = ended = 0
        outputs, is_executed = core.step_fn()
        core.post_step(is_executed)
        times.append(clock.total / 1e3)
        for output in (outputs or {}).values():
            for each in output.outputs:
                tokens[each.request_id] += each.new_token_ids
                ended += each.finish_reason is not None
        yield ended
    return Served(
        side=side,
        manager=manager,
        scheduler=name_of(type(scheduler)),
        hasher=core.request_block_hasher.__module__,
        arrays=str(getattr(scheduler, "served", "")),
        tokens=tokens,
        true_tokens={
            name: tokens_without_cache(*each, worker.windows, STOP_TOKEN_IDS) for name, each in prompts.items()
        },
        cached_tokens=worker.cached_tokens,
        chunks=worker.chunks,
        new_blocks=worker.new_blocks,
        preemptions=worker.preemptions,
        step_us=times,
        planted=worker.planted,
    )


def name_of(kind: type) -> str:
    """Module and name of a class."""
    return f"{kind.__module__}.{kind.__qualname__}"


def serve_in_turns(connection: Connection, options: argparse.Namespace, side: str, prompts: Prompts) -> None:
    """Serve in a fresh process, a step whenever the other end asks for one; send what `serve` says, or its error."""
    # vLLM reads them once, so they are set before it is imported.
    os.environ.update(VLLM_PLUGINS="kvgpu" if SIDES[side][0] else "", VLLM_LOGGING_LEVEL="ERROR")
    os.environ.pop("KVGPU_VLLM", None)
    warnings.simplefilter("ignore")
    logging.disable(logging.WARNING)
    serving = serve(options, side, prompts)
    try:
        while True:
            connection.send(next(serving))
            connection.recv()
    except StopIteration as end:
        connection.send(end.value)
    except ImportError as error:
        connection.send(ImportError(str(error)))
    except EOFError:
        pass  # the other end has given up
