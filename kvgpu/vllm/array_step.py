"""`ArrayStep`: the part of a scheduler step that is served from arrays."""

from dataclasses import dataclass
from functools import cached_property
from itertools import compress
from typing import Any

import numpy as np

from kvgpu.allocation.running_tokens import (
    BUDGET,
    COMPUTED,
    DRAFTS,
    LIMITS,
    LONGEST,
    LONGEST_CHUNK,
    NUM_NEW,
    PLACEHOLDERS,
    TOKENS,
    plan_tokens,
)
from kvgpu.native import add_to_ints, read_ints, read_lengths
from kvgpu.vllm.running_rows import Answered, Counts, RunningRows


def ints_of(requests: list[Any], name: str, out: Counts) -> None:
    """Write an attribute of each request to int64 [n]. O(requests)."""
    if read_ints is None:
        out[:] = [getattr(request, name) for request in requests]
    else:
        read_ints(requests, name, out)


def lengths_of(lists: list[list[int]], out: Counts) -> Counts:
    """Write the length of each list to int64 [n], and return it. O(lists)."""
    if read_lengths is None:
        out[:] = list(map(len, lists))
    else:
        read_lengths(lists, out)
    return out


def add_to(requests: list[Any], name: str, number: int) -> None:
    """Add a number to an attribute of each request. O(requests)."""
    if add_to_ints is None:
        for request in requests:
            setattr(request, name, getattr(request, name) + number)
    else:
        add_to_ints(requests, name, number)


@dataclass(frozen=True)
class StepLimits:
    """What a scheduler allows in a step.

    Attributes:
        budget: Tokens of all requests.
        max_model_len: In tokens.
        num_lookahead: Slots of each request for drafts.
        has_placeholders: Whether requests have tokens that are sampled but not known yet.
        has_drafts: Whether requests have draft tokens.
        counts_in_flight: Whether tokens of steps that have not ended are counted.
    """

    budget: int
    max_model_len: int
    num_lookahead: int
    has_placeholders: bool
    has_drafts: bool
    counts_in_flight: bool

    @cached_property
    def words(self) -> Counts:
        """The first two for compiled code, int64 [LIMITS]; the length of a chunk is that of a step. O(1)."""
        words = np.zeros(LIMITS, np.int64)
        words[BUDGET], words[LONGEST] = self.budget, self.max_model_len
        return words


class ArrayStep:
    """Running requests from the first on that got slots in one call, and what the workers are told of them.

    Attributes:
        num_rows: Requests that were looked at, whether or not they had something to compute.
        requests, ids: Those that compute something.
        num_new: Tokens that each of them computes.
        total: All of these together.
        is_decode: Whether each of them computes one token, its last, and has no drafts.
        merged: Whether the scheduler's output has them.
    """

    def __init__(
        self, rows: RunningRows, num_computed: Counts, num_new: Counts, num_outputs: list[int], is_decode: bool
    ) -> None:
        self.num_rows = len(num_new)
        self.merged = False
        some = num_new > 0
        everyone = bool(some.all())
        picked = some.tolist()

        def those(column: list[Any]) -> list[Any]:
            column = column[: self.num_rows]
            return column if everyone else list(compress(column, picked))

        self.requests, self.ids = those(rows.requests), those(rows.ids)
        self.answered: list[Answered | None] = those(rows.answered)
        self.num_computed: list[int] = those(num_computed.tolist())
        self.num_outputs: list[int] = those(num_outputs)
        self.num_new: list[int] = those(num_new.tolist())
        self.total = int(num_new.sum())
        self.drafts: dict[str, list[int]] = {}
        self.all_token_ids: dict[str, list[int]] = {}
        self.new_block_ids: list[tuple[list[int], ...] | None] = [None] * len(self.ids)
        self.is_decode = is_decode
        self._place_of = None if everyone else np.cumsum(some) - 1

    def note_blocks(self, new_blocks: list[tuple[int, tuple[list[int], ...]]]) -> None:
        """Take over new blocks, by place among all rows. O(requests with new blocks)."""
        for place, blocks in new_blocks:
            self.new_block_ids[place if self._place_of is None else int(self._place_of[place])] = blocks

    def note_drafts(self, num_drafts: list[int]) -> None:
        """Take over the draft tokens of requests, of which so many are computed, by place among all rows. O(rows)."""
        if self._place_of is not None:
            num_drafts = list(compress(num_drafts, (np.diff(self._place_of, prepend=-1) > 0).tolist()))
        for request, count in zip(self.requests, num_drafts, strict=True):
            drafts = request.spec_token_ids
            if not drafts:
                continue
            if count > 0:
                self.drafts[request.request_id] = drafts if len(drafts) <= count else drafts[:count]
            request.spec_token_ids = []

    def note_previous(self, previous: set[str]) -> None:
        """Take over the tokens of requests that were not scheduled in the step before, by their names. O(requests)."""
        if not previous.issuperset(self.ids):
            new = [request for request in self.requests if request.request_id not in previous]
            self.all_token_ids = {request.request_id: request.all_token_ids.copy() for request in new}

    def merge_into(self, output: Any) -> None:
        """Put these requests in front of those that vLLM has scheduled in a `SchedulerOutput`. O(requests)."""
        self.merged = True
        cached, ids = output.scheduled_cached_reqs, self.ids
        cached.req_ids = ids + cached.req_ids
        cached.new_block_ids = self.new_block_ids + cached.new_block_ids
        cached.num_computed_tokens = self.num_computed + cached.num_computed_tokens
        cached.num_output_tokens = self.num_outputs + cached.num_output_tokens
        cached.all_token_ids = {**self.all_token_ids, **cached.all_token_ids}
        scheduled = dict(zip(ids, self.num_new, strict=True))
        scheduled.update(output.num_scheduled_tokens)
        output.num_scheduled_tokens = scheduled
        output.total_num_scheduled_tokens += self.total
        if self.drafts:
            output.scheduled_spec_decode_tokens = {**self.drafts, **output.scheduled_spec_decode_tokens}

    def advance(self, limits: StepLimits) -> None:
        """Count the token of each request as computed, and as one to come, or in flight, if those are counted.

        O(requests).
        """
        add_to(self.requests, "num_computed_tokens", 1)
        if limits.has_placeholders:
            add_to(self.requests, "num_output_placeholders", 1)
        if limits.counts_in_flight:
            add_to(self.requests, "num_in_flight_tokens", 1)
        for request in self.requests:
            request.is_prefill_chunk = False

    def note_next(self, number: int) -> None:
        """Note the number of the step that may compute the next token of each request. O(requests)."""
        for request in self.requests:
            request.next_decode_eligible_step = number


def complete(scheduler: Any, output: Any, step: ArrayStep) -> None:
    """Have an output of vLLM 0.33 speak of requests that arrays serve as well, once they have been merged into it.

    Args:
        scheduler: Has scheduled the others; what it knows of the requests is as before the step.
        output: The output.
        step: The requests that arrays serve.

    O(1), and O(requests) with drafters.
    """
    if scheduler.dynamic_sd_lookup is not None:
        output.num_spec_tokens_to_schedule = scheduler.dynamic_sd_lookup[len(output.num_scheduled_tokens)]
    if output.skip_drafts:
        numbers = zip(step.requests, step.num_computed, step.num_new, strict=True)
        output.skip_drafts = all(scheduler._drafts_unused(*each) for each in numbers)
    if scheduler._pending_encoder_input_ids:
        updates = scheduler._get_encoder_input_updates(dict.fromkeys(step.ids), [], {})
        output.encoder_input_updates = {**updates, **output.encoder_input_updates}
    if output.kv_connector_block_state is not None:
        output.kv_connector_block_state.req_ids.update(step.ids)


def count_step(scheduler: Any) -> None:
    """Count a step of which vLLM has scheduled nothing itself. O(1)."""
    scheduler.num_executed_steps += 1
    if scheduler.defer_block_free:
        scheduler.sched_step_seq += 1


def take_step(
    rows: RunningRows, limits: StepLimits, chunk: int = 0, most: int | None = None, num_free: int | None = None
) -> ArrayStep | None:
    """Give slots to running requests, from the first on, as far as this can be done in one call.

    Args:
        rows: Of the requests that run.
        limits: Of all steps.
        chunk: Tokens of one request; 0 for no limit.
        most: Requests to serve; None if they may be all.
        num_free: Free blocks that must certainly suffice for all requests; None if the last ones may get nothing.

    Returns:
        The step; None if nobody was given anything.

    O(requests).
    """
    columns, has_drafts = rows.columns, False
    lengths_of(rows.token_ids, columns[TOKENS])
    ints_of(rows.requests, "num_computed_tokens", columns[COMPUTED])
    if limits.has_placeholders:
        ints_of(rows.requests, "num_output_placeholders", columns[PLACEHOLDERS])
    if limits.has_drafts:
        columns[DRAFTS] = [len(request.spec_token_ids) for request in rows.requests]
        has_drafts = bool(columns[DRAFTS].any())
    limits.words[LONGEST_CHUNK] = chunk
    count, first_other = plan_tokens(columns, limits.words)
    if most is not None:
        count = min(count, most)
    in_flight = None
    if limits.counts_in_flight:
        in_flight = np.empty(len(rows.requests), np.int64)
        ints_of(rows.requests, "num_in_flight_tokens", in_flight)
        in_flight = in_flight[:count]
    num_tokens, num_computed, num_new = columns[TOKENS], columns[COMPUTED], columns[NUM_NEW, :count]
    if num_free is not None and (
        count < len(rows.running) or rows.slots.most_blocks(num_computed, num_new, limits.num_lookahead) > num_free
    ):
        return None
    served = rows.slots.allocate(num_computed[:count], num_tokens[:count], num_new, limits.num_lookahead, in_flight)
    count = served.num_served
    if count == 0:
        return None
    num_new, num_computed = num_new[:count], num_computed[:count]
    outputs = columns[PLACEHOLDERS, :count] + lengths_of(rows.output_ids[:count], np.empty(count, np.int64))
    step = ArrayStep(rows, num_computed, num_new, outputs.tolist(), not has_drafts and first_other >= count)
    step.note_blocks(served.new_blocks)
    if has_drafts:
        expected = num_tokens[:count] + columns[PLACEHOLDERS, :count]
        step.note_drafts((num_computed + num_new - expected).tolist())
    return step
