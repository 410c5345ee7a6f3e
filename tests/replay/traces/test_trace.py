"""Traces read from JSON lines of two formats, and what is said about lines that cannot be read."""

import numpy as np
import pytest
from support.traces import line

from kvgpu.errors import ConfigError, TraceError, UnknownNameError
from kvgpu.replay.traces.trace import FORMATS, from_requests, read_trace

MOONCAKE = (
    b'{"timestamp": 27482, "input_length": 600, "output_length": 52, "hash_ids": [46, 47]}\n'
    b'{"timestamp": 30535, "input_length": 512, "output_length": 26, "hash_ids": [46]}\n'
)
BAILIAN = (
    b'{"chat_id": 159, "parent_chat_id": -1, "timestamp": 61.5, "input_length": 33, '
    b'"output_length": 132, "type": "text", "turn": 1, "hash_ids": [1089, 1090, 6326]}\n'
    b'{"chat_id": 160, "parent_chat_id": 159, "timestamp": 62.25, "input_length": 16, '
    b'"output_length": 1, "type": "text", "turn": 2, "hash_ids": [1089]}\n'
)


@pytest.fixture
def write(tmp_path):
    def write(*lines):
        path = tmp_path / "trace.jsonl"
        path.write_bytes(b"\n".join(lines))
        return path

    return write


def columns(trace):
    ids = [trace.ids_of(i).tolist() for i in range(len(trace))]
    lengths = zip(trace.input_length.tolist(), trace.output_length.tolist(), strict=True)
    return trace.arrival_ms.tolist(), [*lengths], ids


def test_mooncake_lines_have_milliseconds_and_ids_of_512_tokens(write):
    trace = read_trace(write(MOONCAKE))
    assert trace.block_tokens == 512
    assert columns(trace) == ([27482.0, 30535.0], [(600, 52), (512, 26)], [[46, 47], [46]])


def test_bailian_lines_have_seconds_and_ids_of_16_tokens(write):
    trace = read_trace(write(BAILIAN))
    assert trace.block_tokens == 16
    assert columns(trace) == ([61500.0, 62250.0], [(33, 132), (16, 1)], [[1089, 1090, 6326], [1089]])


@pytest.mark.parametrize(("lines", "name"), [(MOONCAKE, "mooncake"), (BAILIAN, "bailian")])
def test_the_format_is_told_by_the_first_line(write, lines, name):
    trace = read_trace(write(b"", b"  ", lines))
    assert columns(trace) == columns(read_trace(write(lines), name))


def test_a_format_that_is_named_is_not_guessed(write):
    path = write(line(chat_id=1, timestamp=5, input_length=600, hash_ids=[1, 2]))
    trace = read_trace(path, "mooncake")
    assert (trace.block_tokens, trace.arrival_ms.tolist()) == (512, [5.0])


def test_an_unknown_format_is_an_error_that_lists_the_known(write):
    with pytest.raises(UnknownNameError, match=r"'csv'.*auto, bailian, mooncake, own"):
        read_trace(write(MOONCAKE), "csv")


def test_requests_are_sorted_by_arrival(write):
    times = [5, 1, 3]
    trace = read_trace(write(*(line(timestamp=t, hash_ids=[t]) for t in times)))
    assert columns(trace)[::2] == ([1.0, 3.0, 5.0], [[1], [3], [5]])


def test_requests_that_arrive_together_keep_their_order(write):
    trace = read_trace(write(*(line(timestamp=1, hash_ids=[i]) for i in (4, 2, 3))))
    assert columns(trace)[2] == [[4], [2], [3]]


@pytest.mark.parametrize("ids", [[1, 2], [1, 2, 3, 4], [*range(65)]])
def test_ids_that_do_not_cover_the_input_exactly_are_an_error_that_names_the_option(write, ids):
    path = write(line(input_length=1025, hash_ids=ids))
    expected = rf":1: field 'hash_ids' has {len(ids)} ids.*1025 needs 3 of 512.*--trace-block-size"
    with pytest.raises(TraceError, match=expected):
        read_trace(path)


def test_the_error_says_how_many_tokens_an_id_may_stand_for(write):
    path = write(line(input_length=992, hash_ids=[*range(62)]))
    with pytest.raises(TraceError, match=r"--trace-block-size.*16 would fit"):
        read_trace(path)


@pytest.mark.parametrize("lines", [MOONCAKE, BAILIAN])
def test_an_id_stands_for_as_many_tokens_as_the_caller_says(write, lines):
    small = lines.replace(b"512,", b"64,").replace(b"600,", b"65,")
    small = small.replace(b"16,", b"64,").replace(b"33,", b"129,")
    trace = read_trace(write(small), block_tokens=64)
    assert (trace.block_tokens, len(trace)) == (64, 2)


@pytest.mark.parametrize("size", [0, -1, 2**15 + 1, 2**63, 1.5, True])
def test_an_id_stands_for_a_number_of_tokens_in_range(write, size):
    with pytest.raises(ConfigError, match="--trace-block-size"):
        read_trace(write(MOONCAKE), block_tokens=size)


def test_an_output_may_be_empty(write):
    assert columns(read_trace(write(line(output_length=0))))[1] == [(10, 0)]


def test_unknown_fields_and_the_largest_id_are_accepted(write):
    trace = read_trace(write(line(hash_ids=[2**48 - 1], comment={"a": [1]})))
    assert columns(trace)[2] == [[2**48 - 1]]


def test_empty_lines_and_carriage_returns_are_no_requests(write):
    assert len(read_trace(write(line() + b"\r", b"", b"  ", line(), b""))) == 2


def test_the_name_is_that_of_the_file(write):
    assert read_trace(write(line())).name == "trace.jsonl"


BAD_FIELDS = [
    ("timestamp", ...),
    ("timestamp", None),
    ("timestamp", "0"),
    ("timestamp", -1),
    ("timestamp", True),
    ("timestamp", 10**400),
    ("input_length", ...),
    ("input_length", 0),
    ("input_length", -5),
    ("input_length", 1.5),
    ("input_length", "10"),
    ("input_length", [10]),
    ("output_length", ...),
    ("output_length", -1),
    ("output_length", 0.5),
    ("output_length", False),
    ("output_length", 2**63),
    ("output_length", 10**15),
    ("output_length", 10**7 + 1),
    ("input_length", 10**15),
    ("output_length", 1e300),
    ("output_length", 10**400),
    ("hash_ids", ...),
    ("hash_ids", None),
    ("hash_ids", 7),
    ("hash_ids", "1"),
    ("hash_ids", {}),
    ("hash_ids", []),
    ("hash_ids", ["1"]),
    ("hash_ids", [1.0]),
    ("hash_ids", [True]),
    ("hash_ids", [-1]),
    ("hash_ids", [2**48]),
    ("hash_ids", [[1]]),
]


@pytest.mark.parametrize(
    ("field", "value"), BAD_FIELDS, ids=[f"{field} {str(value)[:12]}" for field, value in BAD_FIELDS]
)
def test_a_bad_field_is_named_with_file_and_line(write, field, value):
    path = write(line(), b"", line(**{field: value}))
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:3: field '{field}' ")


BAD_LINES = {
    "text": b"hello",
    "half an object": b'{"timestamp": 0, "input',
    "a list": b"[1, 2]",
    "a number": b"7",
    "null": b"null",
    "two objects": b"{} {}",
    "bytes": b"\xff\xfe\x00",
    "a surrogate": b'{"timestamp": "\xed\xa0\x80"}',
    "a number too large": b'{"timestamp": 1e999}',
    "deep nesting": b"[" * 100_000,
}
bad_lines = pytest.mark.parametrize("text", BAD_LINES.values(), ids=BAD_LINES.keys())


@bad_lines
def test_a_line_that_is_no_json_object_is_named_with_its_file(write, text):
    path = write(line(), text)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert str(error.value).startswith(f"{path}:2: ")


@bad_lines
def test_bad_lines_can_be_skipped_and_are_counted(write, text):
    path = write(line(timestamp=1), text, line(input_length=0), line(timestamp=2))
    trace = read_trace(path, skip_bad_lines=True)
    assert (len(trace), trace.bad_lines) == (2, 2)


def test_a_good_trace_has_no_bad_lines(write):
    assert read_trace(write(line()), skip_bad_lines=True).bad_lines == 0


@pytest.mark.parametrize(("lines", "skipped"), [([], 0), ([b"", b" "], 0), ([b"no", b"", b"nor this"], 2)])
def test_a_file_without_any_request_is_an_error(write, lines, skipped):
    with pytest.raises(TraceError, match=rf"trace\.jsonl: no request.*{skipped} bad"):
        read_trace(write(*lines), skip_bad_lines=True)


def test_a_missing_file_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_trace(tmp_path / "missing")


def test_a_trace_is_made_from_requests():
    trace = from_requests("made", 4, [(2.0, 5, 1, [7, 8]), (1.0, 3, 2, [9])])
    assert (trace.name, trace.block_tokens, trace.bad_lines) == ("made", 4, 0)
    assert columns(trace) == ([1.0, 2.0], [(3, 2), (5, 1)], [[9], [7, 8]])


def test_arrays_have_the_documented_types():
    trace = from_requests("made", 4, [(2.0, 5, 1, [7, 8])])
    integers = (trace.input_length, trace.output_length, trace.offsets, trace.ids)
    assert trace.arrival_ms.dtype == np.float64
    assert {array.dtype for array in integers} == {np.dtype(np.int64)}


@pytest.mark.parametrize(("limit", "left"), [(0, 0), (1, 1), (2, 2), (3, 3), (9, 3), (None, 3)])
def test_the_head_of_a_trace_is_its_first_requests(limit, left):
    trace = from_requests("made", 4, [(float(i), 5, i, [i, i + 1]) for i in range(3)])
    head = trace.head(limit)
    assert columns(head) == tuple(column[:left] for column in columns(trace))
    assert len(head.ids) == 2 * left


def test_every_format_is_documented_by_a_positive_block():
    formats = {name: (f.block_tokens, f.timestamp_ms) for name, f in FORMATS.items()}
    assert formats == {"mooncake": (512, 1.0), "bailian": (16, 1000.0), "own": (16, 1.0)}
