"""Traces compressed by zstd, with the package for it and without; gzip is among the lines."""

import os
import sys

import pytest
from support.traces import line

from kvgpu.errors import MissingPackageError, TraceError
from kvgpu.replay.traces import lines
from kvgpu.replay.traces.compression import ZSTD
from kvgpu.replay.traces.trace import read_trace

TWO = line(timestamp=1) + b"\n" + line(timestamp=2) + b"\n"
TABLE = b"timestamp,output_length,token_ids\n1,1,5 6\n2,1,5 6 7\n"
BAILIAN = line(chat_id=1, input_length=17, hash_ids=[1, 2]) + b"\n" + line(chat_id=2)


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "trace.zst"
        path.write_bytes(content)
        return path

    return write


@pytest.fixture
def zstd():
    return pytest.importorskip("zstandard").compress


def test_without_zstandard_the_error_names_the_extra(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(MissingPackageError, match=r"trace\.zst: .*kvgpu\[traces\]"):
        read_trace(write(ZSTD + bytes(90)))


@pytest.mark.parametrize("content", [TWO, TABLE, BAILIAN], ids=["mooncake", "table", "bailian"])
def test_zstd_is_read(write, zstd, content):
    trace = read_trace(write(zstd(content)))
    plain = read_trace(write(content))
    assert (len(trace), trace.ids.tolist()) == (2, plain.ids.tolist())


def test_frames_after_another_are_one_file(write, zstd):
    assert len(read_trace(write(zstd(line() + b"\n") + zstd(line() + b"\n") + zstd(TWO)))) == 4


def test_many_lines_are_read(write, zstd):
    content = b"\n".join(line(timestamp=t, salt=os.urandom(40).hex()) for t in range(3000))
    assert read_trace(write(zstd(content))).arrival_ms.tolist() == list(range(3000))


@pytest.mark.parametrize("change", ["cut", "junk", "damaged"])
def test_a_damaged_file_is_an_error(write, zstd, change):
    whole = zstd(b"\n".join(line(salt=os.urandom(99).hex()) for _ in range(50)))
    content = {
        "cut": whole[:-7],
        "junk": whole + b"junk that is no frame",
        "damaged": whole[:20] + bytes(byte ^ 255 for byte in whole[20:40]) + whole[40:],
    }[change]
    with pytest.raises(TraceError, match=r"trace\.zst: compressed by zstd, and cut off or damaged"):
        read_trace(write(content), skip_bad_lines=True)


def test_what_is_read_has_a_limit(write, zstd, monkeypatch):
    monkeypatch.setattr(lines, "LARGEST_FILE", 4000)
    with pytest.raises(TraceError, match="larger than 4,000 bytes"):
        read_trace(write(zstd(b"{}\n" * 2000)), skip_bad_lines=True)
