"""Tokens made from hash ids and for outputs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvgpu.replay.traces.tokens import VOCABULARY, output_tokens, prompt_tokens, tokens_of
from kvgpu.replay.traces.trace import from_requests

ids = st.integers(0, 2**48 - 1)


def array(*values):
    return np.array(values, np.int64)


@settings(max_examples=50, deadline=None)
@given(first=ids, second=ids, per_id=st.sampled_from([16, 512]))
def test_two_ids_have_equal_tokens_only_if_they_are_equal(first, second, per_id):
    one, other = tokens_of(array(first, second), per_id).reshape(2, per_id)
    assert np.array_equal(one, other) == (first == second)


@settings(max_examples=50, deadline=None)
@given(before=st.lists(ids, max_size=5), id=ids, per_id=st.sampled_from([1, 16, 512]))
def test_the_tokens_of_an_id_do_not_depend_on_where_it_stands(before, id, per_id):
    whole = tokens_of(array(*before, id), per_id)
    assert np.array_equal(whole[-per_id:], tokens_of(array(id), per_id))


@pytest.mark.parametrize(
    ("id", "per_id", "drawn"),
    [(0, 1, [0xE220A8397B1DCDAF]), (0, 2, [0xE220A8397B1DCDAF, 0x910A2DEC89025CC1]), (1, 1, [0x910A2DEC89025CC1])],
)
def test_tokens_are_drawn_by_splitmix64_from_their_place(id, per_id, drawn):
    assert tokens_of(array(id), per_id).tolist() == [number % VOCABULARY for number in drawn]


@settings(max_examples=30, deadline=None)
@given(id=ids)
def test_tokens_lie_in_the_vocabulary(id):
    tokens = tokens_of(array(id), 64)
    assert 0 <= tokens.min() <= tokens.max() < VOCABULARY


@pytest.mark.parametrize("length", [1, 15, 16, 17, 32])
def test_a_prompt_has_as_many_tokens_as_the_trace_says(length):
    trace = from_requests("t", 16, [(0.0, length, 0, [3, 4][: -(-length // 16)])])
    tokens = prompt_tokens(trace, 0).tolist()
    assert tokens == tokens_of(array(3, 4), 16)[:length].tolist()
    assert {type(token) for token in tokens} == {int}


def test_prompts_that_share_ids_share_tokens():
    trace = from_requests("t", 16, [(0.0, 32, 0, [1, 2]), (1.0, 40, 0, [1, 2, 3])])
    assert prompt_tokens(trace, 1)[:32].tolist() == prompt_tokens(trace, 0).tolist()


def test_no_two_requests_generate_the_same():
    outputs = {tuple(output_tokens(request, 0, 8)) for request in range(100)}
    assert len(outputs) == 100


def test_an_output_may_be_made_in_parts():
    assert output_tokens(3, 0, 5) + output_tokens(3, 5, 9) == output_tokens(3, 0, 9)


def test_an_output_is_not_what_a_prompt_holds():
    prompt = set(zip(*[iter(tokens_of(np.arange(1000), 4).tolist())] * 4, strict=True))
    assert tuple(output_tokens(0, 0, 4)) not in prompt


def test_output_tokens_lie_in_the_vocabulary():
    tokens = output_tokens(7, 0, 1000)
    assert 0 <= min(tokens) <= max(tokens) < VOCABULARY
