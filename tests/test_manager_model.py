"""Random calls: the accounts balance, backends agree, and full attention follows a simple model."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.managers import (
    accounts_balance,
    chunked,
    free_order,
    full,
    make_manager,
    make_request,
    mamba,
    per_backend,
    snapshot,
    window,
)

MODEST = settings(max_examples=30, deadline=None)
DOCUMENTS = [[d] * 9 + list(range(d, d + 60)) for d in (0, 100, 200)]

equal_blocks = st.lists(
    st.sampled_from([full(4), window(4, 1), window(4, 10), mamba(4), chunked(4, 8)]),
    min_size=1,
    max_size=3,
    unique=True,
)
uneven_blocks = st.lists(
    st.sampled_from([full(8), full(4), window(4, 9), window(8, 8), mamba(16), mamba(8, "none")]),
    min_size=2,
    max_size=4,
    unique=True,
)
aligned_states = st.sampled_from([[full(4), mamba(4, "align", 1)], [mamba(4, "align")]])


@st.composite
def configurations(draw) -> dict[str, Any]:
    """Arguments of a manager."""
    specs = draw(equal_blocks | uneven_blocks | aligned_states)
    eagle = draw(st.booleans()) and chunked(4, 8) not in specs
    return {
        "specs": specs,
        "num_blocks": draw(st.integers(2, 12)) * 4 * len(specs),
        "use_eagle": eagle,
        "enable_caching": draw(st.integers(0, 9)) > 0,
        "enable_kv_cache_events": True,
        "log_stats": True,
        "max_model_len": draw(st.sampled_from([48, 4096])),
    }


calls = st.lists(
    st.tuples(
        st.sampled_from(["admit"] * 6 + ["step"] * 6 + ["free"] * 3 + ["evict", "reset", "step_starts", "drain"]),
        st.integers(0, 2),
        st.integers(1, 60),
        st.integers(0, 3),
    ),
    min_size=20,
    max_size=80,
)


class Engine:
    """Drives one manager by plain data, as a careless scheduler would."""

    def __init__(self, backend, specs, **options):
        self.manager = make_manager(*specs, backend=backend, **options)
        self.hash_block_size = self.manager.block_pool.hash_block_size
        self.running = []
        self.made = 0

    def do(self, action, which, size, extra):
        """One call; returns what a scheduler would see."""
        return getattr(self, action)(which, size, extra)

    def admit(self, which, size, extra):
        tokens = [*DOCUMENTS[which][:size], *[7] * extra][: self.manager.max_model_len]
        request = make_request(f"r{self.made}", tokens, self.hash_block_size)
        self.made += 1
        computed, hits = self.manager.get_computed_blocks(request)
        new = self.manager.allocate_slots(
            request, request.num_tokens - hits, hits, computed, num_lookahead_tokens=extra
        )
        if new is not None:
            request.num_computed_tokens = min(request.num_tokens, self.manager.max_model_len)
            self.running.append(request)
        return computed.get_block_ids(), hits, new and new.get_block_ids()

    def step(self, which, size, extra):
        if not self.running:
            return None
        request = self.running[size % len(self.running)]
        if request.num_computed_tokens + 1 + which > self.manager.max_model_len:
            return self.free(which, size, extra)
        request.append_output_token_ids([size] * (1 + which))
        new = self.manager.allocate_slots(request, 1 + which, num_lookahead_tokens=extra)
        if new is None:
            return self.free(which, size, extra)
        request.num_computed_tokens += 1 + which
        return new.get_block_ids()

    def free(self, which, size, extra):
        if self.running:
            self.manager.free(self.running.pop(size % len(self.running)))

    def evict(self, which, size, extra):
        self.manager.evict_blocks({size % self.manager.block_pool.num_gpu_blocks})

    def reset(self, which, size, extra):
        if extra == 0:
            for request in self.running:
                self.manager.free(request)
            self.running.clear()
        return self.manager.reset_prefix_cache()

    def step_starts(self, which, size, extra):
        self.manager.new_step_starts()

    def drain(self, which, size, extra):
        return self.manager.take_events(), self.manager.make_prefix_cache_stats()


@per_backend
@given(configuration=configurations(), sequence=calls)
@MODEST
def test_after_any_call_the_accounts_balance(backend, configuration, sequence):
    engine = Engine(backend, **configuration)
    for call in sequence:
        engine.do(*call)
        assert accounts_balance(engine.manager)
        engine.manager.check()


@given(configuration=configurations(), sequence=calls)
@settings(MODEST, max_examples=50)
def test_backends_agree_call_by_call(configuration, sequence):
    engines = [Engine(backend, **configuration) for backend in ("reference", "host")]
    for call in [*sequence, ("drain", 0, 1, 0)]:
        results = [engine.do(*call) for engine in engines]
        assert results[0] == results[1]
        states = [snapshot(engine.manager) for engine in engines]
        assert states[0] == states[1]


@per_backend
@given(sequence=calls, num_blocks=st.integers(3, 40))
@MODEST
def test_all_blocks_are_free_once_all_requests_are(backend, sequence, num_blocks):
    engine = Engine(backend, [full(4), window(4, 6)], num_blocks=num_blocks)
    for call in sequence:
        engine.do(*call)
    for request in engine.running:
        engine.manager.free(request)
    assert len(free_order(engine.manager)) == num_blocks - 1
    assert engine.manager.reset_prefix_cache()


class FullAttentionModel:
    """Prefix caching with full attention, in lists and dicts and nothing else."""

    def __init__(self, num_blocks, size):
        self.size = size
        self.free_ids = list(range(1, num_blocks))
        self.users = dict.fromkeys(range(num_blocks), 0)
        self.prefix_of = {}
        self.tables = {}

    def hits(self, tokens):
        found = []
        for end in range(self.size, len(tokens), self.size):
            same = [b for b, prefix in self.prefix_of.items() if prefix == tuple(tokens[:end])]
            if not same:
                break
            found.append(same[0])
        return found

    def grow(self, name, tokens, hits=()):
        """True if there was room for all tokens."""
        held = self.tables.get(name, [])
        missing = -(-len(tokens) // self.size) - len(held) - len(hits)
        if missing + sum(self.users[b] == 0 for b in hits) > len(self.free_ids):
            return False
        self.free_ids = [b for b in self.free_ids if b not in hits]
        new, self.free_ids = self.free_ids[:missing], self.free_ids[missing:]
        for block in new:
            self.prefix_of.pop(block, None)
        for block in [*hits, *new]:
            self.users[block] += 1
        table = self.tables[name] = [*held, *hits, *new]
        for i in range(len(tokens) // self.size):
            if table[i] in new or (table[i] in held and table[i] not in self.prefix_of):
                self.prefix_of.setdefault(table[i], tuple(tokens[: (i + 1) * self.size]))
        return True

    def free(self, name):
        for block in reversed(self.tables.pop(name)):
            self.users[block] -= 1
            if self.users[block] == 0:
                self.free_ids.append(block)


@per_backend
@given(sequence=calls, num_blocks=st.integers(4, 40))
@MODEST
def test_full_attention_follows_the_model(backend, sequence, num_blocks):
    manager = make_manager(full(4), num_blocks=num_blocks, backend=backend)
    model = FullAttentionModel(num_blocks, 4)
    running = []
    for number, (action, which, size, extra) in enumerate(sequence):
        if action == "admit":
            request = make_request(f"r{number}", [*DOCUMENTS[which][:size], *[7] * extra], 4)
            computed, num_hits = manager.get_computed_blocks(request)
            hits = model.hits(request.all_token_ids)
            assert computed.get_block_ids() == (hits,)
            new = manager.allocate_slots(request, request.num_tokens - num_hits, num_hits, computed)
            assert model.grow(request.request_id, request.all_token_ids, hits) is (new is not None)
            if new is not None:
                request.num_computed_tokens = request.num_tokens
                running.append(request)
        elif action == "step" and running:
            request = running[size % len(running)]
            request.append_output_token_ids(size)
            new = manager.allocate_slots(request, 1)
            assert model.grow(request.request_id, request.all_token_ids) is (new is not None)
            if new is None:
                manager.free(request)
                model.free(request.request_id)
                running.remove(request)
            else:
                request.num_computed_tokens += 1
        elif action == "free" and running:
            request = running.pop(size % len(running))
            manager.free(request)
            model.free(request.request_id)
        assert free_order(manager) == model.free_ids
        assert snapshot(manager)["tables"] == [model.tables]
