"""Whatever a file holds: a trace is read that is one, or an error says what is wrong."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.bounded import bounded, num_inputs
from support.trace_bytes import nearly_traces

from kvgpu.errors import MissingPackageError, TraceError, UnknownNameError
from kvgpu.replay.traces.compression import ZSTD
from kvgpu.replay.traces.fields import LARGEST, LARGEST_LENGTH
from kvgpu.replay.traces.trace import Trace, read_trace

MEMORY = 1 << 28
SECONDS = 20


def check(trace: Trace, path: Path) -> None:
    """What `Trace` promises."""
    assert len(trace) > 0
    assert trace.bad_lines >= 0
    assert trace.name == path.name
    assert (np.diff(trace.arrival_ms) >= 0).all()
    assert 0 <= trace.arrival_ms[0] <= trace.arrival_ms[-1] <= LARGEST * 1000
    assert 1 <= trace.input_length.min() <= trace.input_length.max() <= LARGEST_LENGTH
    assert 0 <= trace.output_length.min() <= trace.output_length.max() <= LARGEST_LENGTH
    assert (np.diff(trace.offsets) == -(-trace.input_length // trace.block_tokens)).all()
    assert (trace.offsets[0], trace.offsets[-1]) == (0, len(trace.ids))
    assert 0 <= trace.ids.min() <= trace.ids.max() < 1 << 48


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    return tmp_path_factory.mktemp("traces") / "trace.jsonl"


@settings(max_examples=num_inputs(1000), deadline=None, suppress_health_check=list(HealthCheck))
@given(
    content=nearly_traces(),
    format_name=st.sampled_from(["auto"] * 8 + ["mooncake", "bailian", "own", "csv", ""]),
    skip=st.booleans(),
    block_tokens=st.sampled_from([None] * 8 + [16, 512, 1, 2**15]),
)
def test_a_file_is_a_trace_or_an_error_says_what_it_is(path, content, format_name, skip, block_tokens):
    path.write_bytes(content)
    error = None
    try:
        with bounded(SECONDS, MEMORY):
            trace = read_trace(path, format_name, skip, block_tokens)
    except (TraceError, UnknownNameError) as raised:
        error = raised
    except MissingPackageError as raised:
        assert content.startswith(ZSTD)
        error = raised
    if error is None:
        check(trace, path)
    elif isinstance(error, UnknownNameError):
        assert format_name in ("csv", "")
    else:
        assert str(error).startswith(str(path))
