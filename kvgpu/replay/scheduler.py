"""A scheduler that serves a trace through the manager, step by step."""

from collections import deque
from collections.abc import Callable
from operator import attrgetter
from time import perf_counter

from kvgpu.batch.admission import policy_for
from kvgpu.blocks.kv_cache_blocks import KVCacheBlocks
from kvgpu.events.messages import KVCacheEvent
from kvgpu.manager import KVCacheManager
from kvgpu.replay.limits import SchedulerLimits
from kvgpu.replay.losses import Losses
from kvgpu.replay.requests import RequestFactory, Sequence
from kvgpu.replay.traces.trace import Trace

EventSink = Callable[[float, list[KVCacheEvent]], None]


class ReplayScheduler:
    """Serves requests in the order of a policy; preempts the latest request if the pool is full.

    Args:
        trace: The requests.
        factory: Makes the requests.
        manager: Serves the requests; must be new. A manager of vLLM's does, too.
        limits: Bounds and clock.
        losses: Told of what happens to requests and blocks; its result is filled.
        block_size: Tokens that count as one block in the result.
    """

    def __init__(
        self,
        trace: Trace,
        factory: RequestFactory,
        manager: KVCacheManager,
        limits: SchedulerLimits,
        losses: Losses,
        block_size: int,
    ) -> None:
        self.trace = trace
        self.factory = factory
        self.manager = manager
        self.limits = limits
        self.losses = losses
        self.result = losses.result
        self.block_size = block_size
        # Traces count time from different origins, some from 1970.
        self.arrival_ms = trace.arrival_ms - trace.arrival_ms[:1]
        self.now_ms = 0.0
        self.next_arrival = 0
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        make_order = policy_for(limits.policy, manager)
        self.order = (
            None
            if make_order is None
            else make_order(manager, limits.age_limit_ms, attrgetter("request"), attrgetter("index"))
        )

    def run(self, advance: Callable[[int], None], sink: EventSink | None = None) -> None:
        """Serve the whole trace.

        Args:
            advance: Called after each step with the number of requests that finished or were rejected in it.
            sink: Called with the time in seconds and the events of each step, if the manager queues events.
        """
        while self.waiting or self.running or self.next_arrival < len(self.trace):
            left = self.result.requests + self.result.rejected
            tokens = self._step()
            if self.limits.virtual_time:
                self._pass_time(tokens)
            if sink is not None:
                sink(self.now_ms / 1e3, self.manager.take_events())
            advance(self.result.requests + self.result.rejected - left)
        if self.limits.virtual_time:
            self.result.virtual_seconds = self.now_ms / 1e3

    def _pass_time(self, tokens: int) -> None:
        if tokens:
            self.now_ms += self.limits.step_ms + self.limits.token_us * tokens / 1e3
        elif not self.waiting and self.next_arrival < len(self.trace):
            self.now_ms = max(self.now_ms, float(self.arrival_ms[self.next_arrival]))

    def _step(self) -> int:
        """Run one scheduler step; return the number of tokens computed."""
        self.result.steps += 1
        self.manager.new_step_starts()
        scheduled: list[tuple[Sequence, int]] = []
        budget, preempted = self._schedule_running(scheduled)
        if not preempted:
            self._schedule_waiting(scheduled, budget)
        if self.limits.ends_at_hits:
            self.manager.take_boundary_state_offloads()  # as an engine does in every step, or they pile up (B89)
        self.result.peak_usage = max(self.result.peak_usage, self.manager.usage)
        for sequence, num_new in scheduled:
            self._computed(sequence, num_new)
        self.running = [s for s in self.running if not self._left(s)]
        num_tokens = sum(num_new for _, num_new in scheduled)
        self.result.computed_tokens += num_tokens
        return num_tokens

    def _schedule_running(self, scheduled: list[tuple[Sequence, int]]) -> tuple[int, bool]:
        budget, place, preempted = self.limits.max_batched_tokens, 0, False
        while place < len(self.running) and budget > 0:
            sequence = self.running[place]
            request = sequence.request
            num_new = self.limits.chunk(request, request.num_computed_tokens, budget)
            if num_new == 0:
                break
            while self._allocate(sequence, num_new) is None:
                preempted = True
                if self._preempt_latest() is sequence:
                    return budget, preempted
            scheduled.append((sequence, num_new))
            budget -= num_new
            place += 1
        return budget, preempted

    def _schedule_waiting(self, scheduled: list[tuple[Sequence, int]], budget: int) -> None:
        if budget == 0 or len(self.running) >= self.limits.max_running:
            return
        self._take_arrivals()
        num_held = 0
        if self.order is not None:
            with self.result.timed("order"):
                num_held = self.order.arrange(self.waiting, self.running, self._waited_ms)
            self.result.blocks_of["order"] += len(self.waiting)
        while budget > 0 and len(self.running) < self.limits.max_running:
            if not self.waiting:
                self._take_arrivals()
            if len(self.waiting) == num_held:
                return
            sequence = self.waiting[0]
            request = sequence.request
            start = perf_counter()
            computed, num_hits, *junction = self.manager.get_computed_blocks(request)
            looked_up = perf_counter() - start
            if junction:  # in behaviour 0.33 an engine keeps it, and reports admissions
                request.shared_prefix_boundary = junction[0]
            self.result.seconds["lookup"] += looked_up
            self.result.blocks_of["lookup"] += (request.num_tokens - 1) // self.block_size
            self.result.latencies["lookup"].append(looked_up)
            self.losses.looked_up(sequence, self._trace_ms())
            num_new = self.limits.chunk(request, num_hits, budget)
            if num_new == 0:
                return
            start = perf_counter()
            if self._allocate(sequence, num_new, num_hits, computed) is None:
                if not self.running and not scheduled:
                    # It does not fit into an empty pool, so it never will.
                    self.waiting.popleft()
                    self.result.rejected += 1
                    continue
                return
            self.result.latencies["allocate"].append(perf_counter() - start)
            if junction:
                self.manager.record_prefix_cache_stats(request, num_hits)
            self.waiting.popleft()
            self.running.append(sequence)
            request.num_computed_tokens = num_hits
            scheduled.append((sequence, num_new))
            budget -= num_new
            self.losses.admitted(sequence, num_hits)
            self._count(sequence, num_hits)

    def _waited_ms(self, sequence: Sequence) -> float:
        return self.now_ms - float(self.arrival_ms[sequence.index])

    def _trace_ms(self) -> float:
        """Return the time that the trace has come to; without virtual time, that of the last arrival."""
        return self.now_ms if self.limits.virtual_time else float(self.arrival_ms[self.next_arrival - 1])

    def _take_arrivals(self) -> None:
        """Add requests that have arrived to the queue; without virtual time, add the next one if the queue is empty."""
        while self.next_arrival < len(self.trace) and (
            self.arrival_ms[self.next_arrival] <= self.now_ms if self.limits.virtual_time else not self.waiting
        ):
            prompt = self.factory.draw(self.next_arrival)
            with self.result.timed("hash"):
                sequence = self.factory.make(self.next_arrival, prompt)
            self.result.blocks_of["hash"] += sequence.request.num_tokens // self.block_size
            self.waiting.append(sequence)
            self.next_arrival += 1

    def _allocate(
        self, sequence: Sequence, num_new: int, num_hits: int = 0, computed: KVCacheBlocks | None = None
    ) -> KVCacheBlocks | None:
        start = perf_counter()
        blocks = self.manager.allocate_slots(
            sequence.request, num_new, num_hits, computed, full_sequence_must_fit=computed is not None
        )
        seconds = perf_counter() - start
        if sequence.num_outputs and num_new == 1:
            self.result.seconds["decode"] += seconds
            self.result.blocks_of["decode"] += 1
        else:
            self.result.seconds["allocate"] += seconds
            if blocks is not None:
                self.result.blocks_of["allocate"] += sum(map(len, blocks.blocks))
        if blocks is not None:
            self.losses.allocated(sequence, computed, blocks, self._trace_ms())
        return blocks

    def _preempt_latest(self) -> Sequence:
        sequence = self.running.pop()
        sequence.num_lost = sequence.request.num_computed_tokens
        self._free(sequence)
        sequence.request.num_computed_tokens = 0
        sequence.request.num_preemptions += 1
        self.result.preemptions += 1
        self.waiting.appendleft(sequence)
        return sequence

    def _computed(self, sequence: Sequence, num_new: int) -> None:
        """Record that tokens of a request were computed; the last token of a request may generate an output token."""
        request = sequence.request
        request.num_computed_tokens += num_new
        if request.num_computed_tokens == request.num_tokens and not sequence.finished:
            token = sequence.next_output()
            self.result.output_tokens += 1
            with_hash = request.num_tokens % self.block_size == self.block_size - 1
            if not with_hash:
                request.append_output_token_ids(token)
                return
            with self.result.timed("hash"):
                request.append_output_token_ids(token)
            self.result.blocks_of["hash"] += 1

    def _left(self, sequence: Sequence) -> bool:
        """Free a request if its prompt is computed and its output is complete; return whether it is."""
        if not sequence.finished or sequence.request.num_computed_tokens < (sequence.request.num_prompt_tokens):
            return False
        self._free(sequence)
        self.factory.done(sequence)
        self.result.requests += 1
        return True

    def _free(self, sequence: Sequence) -> None:
        held = self.manager.get_blocks(sequence.request.request_id).blocks
        self.result.blocks_of["free"] += sum(map(len, held))
        with self.result.timed("free"):
            self.manager.free(sequence.request)
        self.losses.freed(sequence, sequence.request.num_computed_tokens // self.block_size)

    def _count(self, sequence: Sequence, num_hits: int) -> None:
        """Count a request in the result, once, at its first admission."""
        if sequence.counted:
            return
        sequence.counted = True
        num_prompt = sequence.request.num_prompt_tokens
        self.result.prompt_tokens += num_prompt
        self.result.prompt_blocks += num_prompt // self.block_size
        self.result.hit_tokens += num_hits
        wait_ms = self._waited_ms(sequence) if self.limits.virtual_time else 0.0
        self.result.samples.append((num_prompt, num_hits, self.manager.usage, wait_ms))
