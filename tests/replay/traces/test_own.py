"""Traces of one's own: JSON lines and tables, with hashes or with the tokens of the prompts."""

import json

import pytest
from support.traces import line

from kvgpu.errors import TraceError
from kvgpu.replay.traces.trace import read_trace


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "trace"
        path.write_bytes(b"\n".join(text if isinstance(text, bytes) else text.encode() for text in lines))
        return path

    return write


def tokens_line(tokens, **fields):
    return json.dumps({"timestamp": 0, "output_length": 1, "token_ids": tokens} | fields)


def ids_of(trace):
    return [trace.ids_of(request).tolist() for request in range(len(trace))]


def test_prompts_of_tokens_have_equal_ids_as_far_as_they_are_equal(write):
    prompts = [[*range(40)], [*range(32), 99], [7, *range(1, 40)], [*range(16)]]
    trace = read_trace(write(*map(tokens_line, prompts)))
    assert (trace.block_tokens, trace.input_length.tolist()) == (16, [40, 33, 40, 16])
    assert ids_of(trace) == [[0, 1, 2], [0, 1, 3], [4, 5, 6], [0]]


def test_equal_tokens_after_another_prefix_have_another_id(write):
    trace = read_trace(write(tokens_line([1, 2, 5, 6]), tokens_line([3, 4, 5, 6])), block_tokens=2)
    assert ids_of(trace) == [[0, 1], [2, 3]]


def test_hashes_may_be_text_or_large(write):
    lines = [line(input_length=33, hash_ids=ids) for ids in (["a", 2**64, "c"], ["a", 2**64, "d"])]
    trace = read_trace(write(*lines))
    assert (trace.block_tokens, ids_of(trace)) == (16, [[0, 1, 2], [0, 1, 3]])


def test_small_ids_are_of_mooncake_unless_the_format_is_named(write):
    path = write(line(input_length=33, hash_ids=[5, 6, 7]))
    with pytest.raises(TraceError, match="needs 1 of 512 tokens"):
        read_trace(path)
    assert read_trace(path, "own").block_tokens == 16


TABLES = {
    "commas": "timestamp,input_length,output_length,hash_ids\n5,20,3,a b\n1.5,17,0,a c\n",
    "semicolons": "timestamp;input_length;output_length;hash_ids\n5;20;3;a b\n1.5;17;0;a c\n",
    "tabs": "timestamp\tinput_length\toutput_length\thash_ids\n5\t20\t3\ta b\n1.5\t17\t0\ta c\n",
    "lists as Python writes them": (
        "timestamp,input_length,output_length,hash_ids\n5,20,3,\"['a', 'b']\"\n1.5,17,0,\"['a', 'c']\"\n"
    ),
    "other columns in another order": (
        'model,hash_ids,output_length,input_length,timestamp\n"x, y",a b,3,20,5\n,a c,0,17,1.5\n'
    ),
    "hashes of digits": "timestamp,input_length,output_length,hash_ids\n5,20,3,01 2\n1.5,17,0,01 3\n",
}


@pytest.mark.parametrize("table", TABLES.values(), ids=TABLES.keys())
def test_a_table_is_read(write, table):
    trace = read_trace(write(table))
    assert (trace.arrival_ms.tolist(), trace.input_length.tolist(), trace.output_length.tolist()) == (
        [1.5, 5.0],
        [17, 20],
        [0, 3],
    )
    assert ids_of(trace) == [[0, 2], [0, 1]]


def test_hashes_that_differ_in_zeros_in_front_differ(write):
    trace = read_trace(write("timestamp,input_length,output_length,hash_ids", "0,17,1,5 05"))
    assert ids_of(trace) == [[0, 1]]


def test_a_table_of_tokens_is_read_as_its_lines_would_be(write):
    prompts = [[*range(20)], [*range(17), 5]]
    rows = [f"0,1,{' '.join(map(str, prompt))}" for prompt in prompts]
    table = read_trace(write("timestamp,output_length,token_ids", *rows))
    lines = read_trace(write(*map(tokens_line, prompts)))
    assert (ids_of(table), table.input_length.tolist()) == (ids_of(lines), lines.input_length.tolist())


def test_a_long_list_fits_into_a_cell(write):
    tokens = " ".join(map(str, range(60_000)))
    assert read_trace(write("timestamp,output_length,token_ids", f"0,1,{tokens}")).input_length.tolist() == [60_000]


BAD = {
    "too few cells": ("0,1", "2 cells, where the header has 4"),
    "too many cells": ("0,1,10,a,b", "5 cells, where the header has 4"),
    "a time that is none": ("soon,1,10,a", "field 'timestamp' must be a number, got 'soon'"),
    "an empty time": (",1,10,a", "field 'timestamp' is missing"),
    "no length": ("0,1,,a", "field 'input_length' is missing"),
    "too few hashes": ("0,1,33,a b", "field 'hash_ids' has 2 ids, input_length 33 needs 3 of 16"),
    "an open quote": ('0,1,10,"a', "not a row of a table"),
    "a time out of range": ("-1,1,10,a", "field 'timestamp' must be a number of 0"),
    "no number": ("nan,1,10,a", "field 'timestamp' must be a number of 0"),
}


@pytest.mark.parametrize(("row", "words"), BAD.values(), ids=BAD.keys())
def test_a_bad_row_is_named_and_can_be_skipped(write, row, words):
    path = write("timestamp,output_length,input_length,hash_ids", "0,1,10,a", row)
    with pytest.raises(TraceError, match=f":3: {words}"):
        read_trace(path)
    trace = read_trace(path, skip_bad_lines=True)
    assert (len(trace), trace.bad_lines) == (1, 1)


BAD_TOKENS = [
    ([], "a list of 1 to"),
    ("1 2", "a list of 1 to"),
    ([1.5], "a list of integers"),
    (["1"], "a list of integers"),
    ([True], "a list of integers"),
]


@pytest.mark.parametrize(("tokens", "words"), BAD_TOKENS)
def test_tokens_are_integers(write, tokens, words):
    with pytest.raises(TraceError, match=f":1: field 'token_ids' must be {words}"):
        read_trace(write(tokens_line(tokens)))


def test_tokens_that_are_not_as_many_as_the_length_says_are_an_error(write):
    with pytest.raises(TraceError, match="'token_ids' has 3 tokens, input_length 4"):
        read_trace(write(tokens_line([1, 2, 3], input_length=4)))


def test_a_table_without_the_columns_is_an_error_that_names_them(write):
    with pytest.raises(TraceError, match=r"CSV.*timestamp, output_length and hash_ids or token_ids"):
        read_trace(write("timestamp,output_length,prompt", "0,1,hello"))
