"""Several threads compute the same hashes, each of them a part of the chains."""

import os
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.hashed_requests import FUNCTIONS, by_function, drawn_tokens

from kvgpu.errors import ArgumentError, ConfigError
from kvgpu.hashing import functions as hashing
from kvgpu.hashing.bulk import threads
from kvgpu.hashing.bulk.threads import in_threads, parts_of
from kvgpu.hashing.kvgpu128 import function as kvgpu128
from kvgpu.hashing.request_hasher import RequestBlockHasher, get_request_block_hasher
from kvgpu.hashing.serialised import chains
from kvgpu.request import Request

SIZE, MIN_BLOCKS = 4, 8

hashing.init_none_hash(hashing.sha256)


@pytest.fixture(autouse=True)
def small_parts(monkeypatch):
    for module in (chains, kvgpu128):
        monkeypatch.setattr(module, "MIN_BLOCKS_PER_THREAD", MIN_BLOCKS)


def requests(extras=True):
    """Requests with and without salts, with many, few or no blocks, and with tokens in lists and in arrays."""
    rng = np.random.default_rng(3)
    made = []
    for i, blocks in enumerate([9, 0, 1, 30, 2, 17, 5, 3, 0, 40]):
        tokens = drawn_tokens(SIZE * blocks + int(rng.integers(SIZE)) + 1, i)
        prompt = [tokens, np.array(tokens, np.int32), np.array(tokens)][i % 3]
        salt = "salt" if extras and i % 4 == 3 else None
        made.append(Request(f"r{i}", prompt, cache_salt=salt))
    return made


@pytest.mark.parametrize("extras", [False, True], ids=["tokens alone", "some salts"])
@pytest.mark.parametrize("count", [2, 3, 16])
@by_function
def test_hashes_are_those_of_one_thread(name, count, extras):
    alone, together = requests(extras), requests(extras)
    get_request_block_hasher(SIZE, FUNCTIONS[name]).update(alone)
    get_request_block_hasher(SIZE, FUNCTIONS[name], threads=count).update(together)
    for one, other in zip(alone, together, strict=True):
        assert one.block_hashes == other.block_hashes
        one.append_output_token_ids([5] * 3 * SIZE)
        other.append_output_token_ids([5] * 3 * SIZE)
    get_request_block_hasher(SIZE, FUNCTIONS[name]).update(alone)
    get_request_block_hasher(SIZE, FUNCTIONS[name], threads=count).update(together)
    for one, other in zip(alone, together, strict=True):
        assert one.block_hashes == other.block_hashes


@given(counts=st.lists(st.integers(0, 60), max_size=12), threads=st.integers(1, 6))
def test_parts_cover_all_chains_once_and_in_order(counts, threads):
    parts = parts_of(counts, threads, MIN_BLOCKS)
    assert 1 <= len(parts) <= threads
    assert [i for part in parts for i in range(part.first, part.last)] == [*range(len(counts))]
    assert [part.base for part in parts] == [sum(counts[: part.first]) for part in parts]
    assert len(parts) == 1 or sum(counts) >= MIN_BLOCKS * len(parts)


def test_equal_chains_are_shared_out_evenly():
    assert [part.last - part.first for part in parts_of([10] * 12, 4, MIN_BLOCKS)] == [3, 3, 3, 3]


def test_an_error_of_any_part_is_raised_when_all_are_done():
    done = []

    def call(first, last, base):
        if first == 1:
            raise ValueError("of a part")
        done.append(first)

    with pytest.raises(ValueError, match="of a part"):
        in_threads([10, 10, 10], 3, MIN_BLOCKS, call)
    assert sorted(done) == [0, 2]


def test_parts_run_in_threads_of_their_own():
    together = threading.Barrier(3, timeout=20)
    in_threads([10, 10, 10], 3, MIN_BLOCKS, lambda *_: together.wait())


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_process_has_threads_of_its_own():
    name = "kvgpu128"
    hash_blocks = get_request_block_hasher(SIZE, FUNCTIONS[name], threads=2)
    expected = requests()
    hash_blocks.update(expected)
    child = os.fork()
    if child == 0:
        again = requests()
        hash_blocks.update(again)
        same = all(one.block_hashes == other.block_hashes for one, other in zip(expected, again, strict=True))
        os._exit(0 if same else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_parts_that_were_started_are_waited_for_if_the_next_one_cannot_be(monkeypatch):
    started, done = threading.Event(), []

    class Workers:
        def __init__(self):
            self.pool = ThreadPoolExecutor(1)

        def submit(self, *part):
            if started.is_set():
                raise RuntimeError("can't start new thread")
            started.set()
            return self.pool.submit(*part)

    def call(first, last, base):
        time.sleep(0.05)
        done.append(first)

    workers = Workers()
    monkeypatch.setattr(threads, "_workers", lambda count, process: workers)
    with pytest.raises(RuntimeError, match="new thread"):
        in_threads([10, 10, 10], 3, 1, call)
    assert done == [1]


def test_threads_may_be_chosen_by_the_environment(monkeypatch):
    monkeypatch.delenv("KVGPU_HASH_THREADS", raising=False)
    assert RequestBlockHasher(SIZE, FUNCTIONS["sha256"]).threads == 1
    monkeypatch.setenv("KVGPU_HASH_THREADS", "3")
    assert RequestBlockHasher(SIZE, FUNCTIONS["sha256"]).threads == 3
    assert RequestBlockHasher(SIZE, FUNCTIONS["sha256"], threads=2).threads == 2


@pytest.mark.parametrize("value", ["0", "-1", "two", "1.5"])
def test_a_bad_number_of_threads_is_refused(monkeypatch, value):
    monkeypatch.setenv("KVGPU_HASH_THREADS", value)
    with pytest.raises(ConfigError, match="KVGPU_HASH_THREADS must be an integer number of threads"):
        RequestBlockHasher(SIZE, FUNCTIONS["sha256"])


def test_no_threads_are_refused():
    with pytest.raises(ConfigError, match="at least 1 thread"):
        RequestBlockHasher(SIZE, FUNCTIONS["sha256"], threads=0)


def test_tokens_that_are_refused_leave_no_hash():
    prompts = [np.arange(40) for _ in range(3)]
    prompts[1][39] = 1 << 40
    made = [Request(f"r{i}", prompt) for i, prompt in enumerate(prompts)]
    with pytest.raises(ArgumentError, match="kvgpu128 hashes token ids"):
        get_request_block_hasher(SIZE, FUNCTIONS["kvgpu128"], threads=3).update(made)
    assert not any(len(request.block_hashes) for request in made)
