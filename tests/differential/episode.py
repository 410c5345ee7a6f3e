"""One random episode: what a scheduler would do with two systems, and some accidents."""

from collections import Counter
from typing import Any

from comparison import Comparison, Refused


class Episode(Comparison):
    """Drives two systems as a scheduler would, with accidents; its arguments are those of a `Comparison`."""

    def __init__(self, seed: int, ours: Any, oracle: Any, counts: Counter[str]) -> None:
        super().__init__(seed, ours, oracle, counts)
        vocabulary = self.rng.choice([2, 50, 70_000, 3_000_000_000])
        self.documents = [[self.rng.randrange(vocabulary) for _ in range(400)] for _ in range(3)]
        self.waiting: list[str] = []
        self.running: list[str] = []
        self.next_id = 0

    def create(self) -> None:
        rng = self.rng
        size = rng.choice([rng.randrange(1, 20), rng.randrange(1, 120), rng.randrange(1, 300)])
        # Longer ones are refused here, and crash the oracle in all but the plainest groups.
        size = min(size, self.config.max_model_len - 1)
        document = rng.choice(self.documents)
        shared = rng.randrange(size + 1)
        tokens = document[:shared] + [rng.randrange(100) for _ in range(size - shared)]
        extra: dict[str, Any] = {}
        if rng.random() < 0.1:
            extra["salt"] = rng.choice(["a", "b"])
        if rng.random() < 0.1:
            extra["lora"] = rng.choice(["x", "y"])
        if rng.random() < 0.05:
            extra["logprobs"] = 1
        if rng.random() < 0.15:
            items, offset = [], rng.randrange(6)
            while offset < size and len(items) < 4:
                length = rng.randrange(1, 20)
                items.append((rng.choice("pqr"), offset, min(length, size - offset)))
                offset += length + rng.randrange(10)
            extra["items"] = items
        request_id = str(self.next_id)
        self.next_id += 1
        for system in self.systems:
            system.create(request_id, tokens, extra)
        self.counts["create"] += 1
        self.log.append(f"create {request_id}: {size} tokens, {shared} shared, {extra}")
        hashes = [list(system.requests[request_id].block_hashes) for system in self.systems]
        if hashes[0] != hashes[1]:
            self._differ(f"hashes of {request_id}")
        self.waiting.append(request_id)

    def positions(self, request: Any) -> list[int]:
        """Tokens of a request at which an engine ends a step so that a state is kept there."""
        return []

    def _chunk(self, request: Any, computed: int) -> int:
        """Tokens of the next prefill step."""
        left = request.num_tokens - computed
        ends = [position for position in self.positions(request) if computed < position < request.num_tokens]
        if ends and self.rng.random() < 0.6:
            return int(self.rng.choice(ends)) - computed
        if self.rng.random() < 0.5:
            return left
        chunk = self.rng.randrange(1, left + 1)
        if self.config.mamba_align and chunk < left:
            size = self.config.block_sizes[0]
            for other in self.config.block_sizes:
                size = max(size, other)
            chunk = max(chunk // size * size, 0) or left
        return chunk

    def _hits_may_be_lost(self, computed: Any) -> bool:
        """Whether the oracle could give hits of a later group to an earlier one as room for external tokens."""
        return any(block.ref_cnt == 0 and not block.is_null for group in computed.blocks[1:] for block in group)

    def look_up(self, request_id: str) -> Any:
        return self.call("get_computed_blocks", request_id)

    def more_of_admission(self, request_id: str) -> dict[str, Any]:
        """Further arguments of a call that admits a request."""
        return {}

    def admitted(self, request_id: str, num_hits: int) -> None:
        """What an engine does once a request has its first blocks."""

    def before_step(self, request_id: str, computed: int) -> None:
        """What an engine sets before a running request gets slots."""

    def sundry(self) -> None:
        """A call that belongs to no step."""
        self.call("take_new_block_ids", None)

    def admit(self) -> None:
        rng = self.rng
        request_id = rng.choice(self.waiting)
        computed, their_computed = self.look_up(request_id)
        request = self.systems[0].requests[request_id]
        num_local = computed[1]
        external = 0
        # With two kinds of full attention the second's list can be longer than the hit; with
        # external tokens the oracle then takes -1 blocks and miscounts its free ones.
        overlong = any(
            len(blocks) * size > num_local
            for blocks, size in zip(computed[0].blocks, self.config.block_sizes, strict=True)
        )
        if rng.random() < 0.12 and not self.config.mamba_align and not overlong:
            size = self.config.scheduler_block_size
            external = rng.randrange(0, max(request.num_tokens - num_local, 1)) // size * size
        if request.num_tokens - num_local - external <= 0 or self._hits_may_be_lost(computed[0]):
            external = 0
        delayed = external > 0 and rng.random() < 0.5
        num_new = 0 if delayed else self._chunk(request, num_local + external)
        if rng.random() < 0.1:
            return
        self.call("take_new_block_ids", None)  # those that nobody asks for are forgotten here
        blocks = [computed[0], their_computed[0]]
        kwargs: dict[str, Any] = {}
        if rng.random() < 0.9 or num_local:
            kwargs = {"num_new_computed_tokens": num_local, "new_computed_blocks": blocks}
        if rng.random() < 0.2:
            kwargs["num_lookahead_tokens"] = rng.randrange(1, 4)
        if external:
            kwargs["num_external_computed_tokens"] = external
            kwargs["delay_cache_blocks"] = delayed
        if rng.random() < 0.3:
            kwargs["full_sequence_must_fit"] = True
        if rng.random() < 0.1:
            kwargs["reserved_blocks"] = rng.randrange(8)
        if self.config.groups[-1].spec == "CrossAttentionSpec":
            kwargs["num_encoder_tokens"] = rng.randrange(40)
        result, _ = self.call("allocate_slots", request_id, num_new, **kwargs, **self.more_of_admission(request_id))
        if result is None:
            return
        self.admitted(request_id, num_local)
        self.waiting.remove(request_id)
        self.running.append(request_id)
        self._set(request_id, num_computed_tokens=num_local + external + num_new)
        if delayed and rng.random() < 0.8:
            self.call("cache_blocks", request_id, num_local + external)

    def step(self) -> None:
        """One running request computes its next chunk, or decodes with drafts."""
        rng = self.rng
        request_id = rng.choice(self.running)
        request = self.systems[0].requests[request_id]
        computed = request.num_computed_tokens
        if request.num_tokens > computed:
            num_new = self._chunk(request, computed)
            drafts = accepted = 0
        else:
            self.append(request_id, 1)
            drafts = rng.randrange(0, self.config.num_speculative + 1)
            if not self.config.mamba_align and rng.random() < 0.2:
                drafts = rng.randrange(0, 4)
            accepted = rng.randrange(drafts + 1)
            num_new = 1 + drafts
        if computed + num_new >= self.config.max_model_len:
            self.finish(request_id)
            return
        kwargs = {"num_lookahead_tokens": rng.randrange(4)} if rng.random() < 0.2 else {}
        self.before_step(request_id, computed)
        result, _ = self.call("allocate_slots", request_id, num_new, **kwargs)
        if result is None:
            victim = self.running[-1] if rng.random() < 0.8 else rng.choice(self.running)
            self.preempt(victim)
            return
        self._set(request_id, num_computed_tokens=computed + num_new - drafts + accepted)
        if accepted:
            self.append(request_id, accepted)

    def append(self, request_id: str, count: int) -> None:
        tokens = [self.rng.randrange(100) for _ in range(count)]
        for system in self.systems:
            system.requests[request_id].append_output_token_ids(tokens)
        self.counts["append"] += 1
        hashes = [list(system.requests[request_id].block_hashes) for system in self.systems]
        if hashes[0] != hashes[1]:
            self._differ(f"hashes of {request_id} after appending")

    def finish(self, request_id: str) -> None:
        self.give_up(request_id)
        self.running.remove(request_id)
        if self.rng.random() < 0.1:
            self.call("free", request_id)

    def give_up(self, request_id: str) -> None:
        """The blocks of a request go back."""
        self.call("free", request_id)

    def preempt(self, request_id: str) -> None:
        self.give_up(request_id)
        self.running.remove(request_id)
        self.counts["preempt"] += 1
        count = self.systems[0].requests[request_id].num_preemptions + 1
        self._set(request_id, num_computed_tokens=0, num_preemptions=count)
        self.waiting.append(request_id)

    def run(self, num_actions: int) -> None:
        """Take random actions; each is one call or a few."""
        rng = self.rng
        # One number of [0, 1) decides: below 0.15 a new request, below 0.40 an admission, below 0.75 a step, then ends
        # and preemptions, and from 0.85 on calls that belong to no request. What is impossible goes to the next.
        for _ in range(num_actions):
            action = rng.random()
            if action < 0.15 or not (self.waiting or self.running):
                self.create()
            elif action < 0.40 and self.waiting:
                self.admit()
            elif action < 0.75 and self.running:
                self.step()
            elif action < 0.83 and self.running:
                self.finish(rng.choice(self.running))
            elif action < 0.85 and self.running:
                self.preempt(rng.choice(self.running))
            elif action < 0.90:
                self.call("new_step_starts", None)
            elif action < 0.92:
                count = rng.randrange(1, 5)
                ids = {rng.randrange(self.config.num_blocks) for _ in range(count)}
                self.call("evict_blocks", None, ids)
            elif action < 0.93:
                for request_id in list(self.running):
                    if rng.random() < 0.9:
                        self.preempt(request_id)
                self.call("reset_prefix_cache", None)
            elif action < 0.95:
                self.call("take_events", None)
            elif action < 0.96:
                self.call("make_prefix_cache_stats", None)
            elif action < 0.97 and self.running:
                self.call("get_num_common_prefix_blocks", None, rng.choice(self.running))
            elif action < 0.98:
                self.sundry()
            elif self.running:
                request_id = rng.choice(self.running)
                computed = self.systems[0].requests[request_id].num_computed_tokens
                self.call("remove_skipped_blocks", None, request_id, computed)
        self.call("take_events", None)
        self.call("take_new_block_ids", None)


def run_episode(
    seed: int, ours: Any, oracle: Any, counts: Counter[str], actions: int, kind: type[Episode] = Episode
) -> None:
    """One episode; a refusal by both ends it early."""
    try:
        kind(seed, ours, oracle, counts).run(actions)
    except Refused as refusal:
        counts["ended: " + str(refusal)[:160]] += 1
