"""Lines of a trace file: what is read, what is refused, and in how much memory."""

import bz2
import gzip
import lzma
import os
import socket
import threading
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from support.traces import line

from kvgpu.errors import TraceError
from kvgpu.replay.traces import lines
from kvgpu.replay.traces.trace import read_trace

TWO = line(timestamp=1) + b"\n" + line(timestamp=2) + b"\n"
BOM = b"\xef\xbb\xbf"


@pytest.fixture
def write(tmp_path):
    def write(content):
        path = tmp_path / "trace.jsonl"
        path.write_bytes(content)
        return path

    return write


READ = {
    "a byte order mark": BOM + TWO,
    "byte order marks of two files": BOM + line() + b"\n" + BOM + line(),
    "line ends of Windows": TWO.replace(b"\n", b"\r\n"),
    "blank lines": b"\n \r\n\t\n" + TWO.replace(b"\n", b"\n\n  \n"),
    "no line end at the end": TWO.rstrip(),
    "gzip": gzip.compress(TWO),
    "two parts of gzip": gzip.compress(line() + b"\n") + gzip.compress(line()),
    "gzip of a byte order mark": gzip.compress(BOM + TWO),
    "times as fractions": TWO.replace(b"1,", b"1.5,", 1),
    "times since 1970": line(timestamp=1_732_000_000_000) + b"\n" + line(timestamp=1.732e12),
    "lengths as fractions of one": line(input_length=10.0) + b"\n" + line(),
}


@pytest.mark.parametrize("content", READ.values(), ids=READ.keys())
def test_a_trace_is_read(write, content):
    trace = read_trace(write(content))
    assert (len(trace), trace.bad_lines) == (2, 0)


REFUSED = {
    "git lfs": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:3d74\nsize 132054902\n",
        "a Git LFS pointer .*git lfs pull",
    ),
    "xz": (lzma.compress(TWO), "xz"),
    "bzip2": (bz2.compress(TWO), "bzip2"),
    "parquet": (b"PAR1\x15\x04", "Parquet"),
    "utf-16": (TWO.decode().encode("utf-16"), "UTF-16"),
    "utf-16, little endian": (TWO.decode().encode("utf-16-le"), "UTF-16"),
    "utf-16, big endian": (TWO.decode().encode("utf-16-be"), "UTF-16"),
    "nothing but zeros": (bytes(5000), "NUL"),
    "cut gzip": (gzip.compress(os.urandom(5000) + TWO)[:-9], "gzip, and cut off or damaged"),
    "gzip and junk": (gzip.compress(TWO) + b"junk", "gzip, and cut off or damaged"),
    "damaged gzip": (gzip.compress(TWO)[:15] + b"\xff" * 40, "gzip, and cut off or damaged"),
}


@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize(("content", "words"), REFUSED.values(), ids=REFUSED.keys())
def test_a_file_of_another_kind_is_named_for_what_it_is(write, content, words, skip):
    path = write(content)
    with pytest.raises(TraceError, match=words) as error:
        read_trace(path, skip_bad_lines=skip)
    assert str(error.value).startswith(f"{path}: ")


def test_an_archive_is_named_for_what_it_is(tmp_path):
    path = tmp_path / "trace.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("trace.jsonl", TWO)
    with pytest.raises(TraceError, match="a ZIP archive"):
        read_trace(path)


TEXTS = {
    "csv": (b"Timestamp,Model,Request tokens,Response tokens\n5,ChatGPT,472,18\n", "CSV"),
    "tabs": (b"timestamp\tinput_length\n5\t472\n", "CSV"),
    "an array": (b"[" + line() + b",\n" + line() + b"]", r"a JSON array.*jq -c"),
    "an array on lines": (b"[\n  " + line() + b"\n]", r"a JSON array.*jq -c"),
    "a page": (b"<!DOCTYPE html>\n<html></html>", "HTML"),
    "text": (b"hello\n", "'hello'"),
    "an object on lines": (b'{\n  "timestamp": 0\n}', "not one JSON object"),
    "objects after another": (line() + line(), "not one JSON object"),
    "line ends of old": (TWO.replace(b"\n", b"\r"), "not one JSON object"),
}


@pytest.mark.parametrize(("content", "words"), TEXTS.values(), ids=TEXTS.keys())
def test_text_that_is_no_trace_is_named_for_what_it_seems_to_be(write, content, words):
    with pytest.raises(TraceError, match=rf"\.jsonl:1: .*{words}"):
        read_trace(write(content))


@pytest.mark.parametrize(("content", "words"), TEXTS.values(), ids=TEXTS.keys())
def test_so_is_it_where_bad_lines_are_skipped_and_none_is_left(write, content, words):
    with pytest.raises(TraceError, match=rf"no request.*the first: .*{words}"):
        read_trace(write(content.replace(line(), b'{"a":' + line())), skip_bad_lines=True)


@pytest.mark.parametrize("tail", [bytes(100), line()[:9], b"{" + bytes(9), line() + bytes(4)])
def test_a_tail_that_was_not_written_is_a_bad_line(write, tail):
    path = write(TWO + tail)
    with pytest.raises(TraceError, match=":3: "):
        read_trace(path)
    assert read_trace(path, skip_bad_lines=True).bad_lines == 1


def test_a_tail_of_zeros_is_named(write):
    with pytest.raises(TraceError, match=r":3: .*NUL bytes"):
        read_trace(write(TWO + bytes(100)))


def test_a_line_of_a_session_without_a_time_names_the_field_and_those_there_are(write):
    path = write(line() + b"\n" + line(timestamp=..., session_id="a", delay=500))
    with pytest.raises(TraceError, match=r":2: field 'timestamp' is missing.*'session_id'"):
        read_trace(path)


def test_the_format_is_told_by_the_first_line_that_is_a_request(write):
    bailian = line(chat_id=1, timestamp=2, input_length=17, hash_ids=[1, 2])
    trace = read_trace(write(b'{"version": 1}\nhello\n' + bailian), skip_bad_lines=True)
    assert (trace.block_tokens, trace.arrival_ms.tolist(), trace.bad_lines) == (16, [2000.0], 2)


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/null", "/dev/urandom"])
def test_a_device_is_refused(device):
    with pytest.raises(TraceError, match="a device"):
        read_trace(Path(device))


def test_a_directory_and_a_socket_are_os_errors(tmp_path):
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))
        for path in (tmp_path, tmp_path / "socket"):
            with pytest.raises(OSError, match=str(path)):
                read_trace(path)


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_what_is_no_name_of_a_file_is_a_trace_error(name):
    with pytest.raises(TraceError, match="name of a file"):
        read_trace(Path(name))


@pytest.mark.parametrize("content", [TWO, gzip.compress(TWO)], ids=["plain", "gzip"])
def test_a_pipe_is_read_to_its_end_however_its_bytes_arrive(tmp_path, content):
    path = tmp_path / "pipe"
    os.mkfifo(path)

    def write():
        with path.open("wb", buffering=0) as pipe:
            for byte in content:
                pipe.write(bytes([byte]))

    writer = threading.Thread(target=write)
    writer.start()
    trace = read_trace(path)
    writer.join()
    assert len(trace) == 2


def test_a_file_larger_than_the_limit_is_refused_before_it_is_read(tmp_path):
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.write(TWO)
        file.truncate(lines.LARGEST_FILE + 1)
    with pytest.raises(TraceError, match="larger than"):
        read_trace(path, skip_bad_lines=True)


@pytest.mark.parametrize("content", [b"\n" * 5000, b"{}\n" * 2000, b"1" * 5000])
@pytest.mark.parametrize("pack", [bytes, gzip.compress])
def test_what_is_read_has_a_limit_too(write, monkeypatch, content, pack):
    monkeypatch.setattr(lines, "LARGEST_FILE", 4000)
    with pytest.raises(TraceError, match="larger than 4,000 bytes"):
        read_trace(write(pack(content)), skip_bad_lines=True)


def test_a_line_longer_than_the_limit_is_a_bad_line_and_the_next_is_read(write, monkeypatch):
    monkeypatch.setattr(lines, "LONGEST_LINE", 200)
    path = write(line() + b" " * 300 + b"\n" + line())
    with pytest.raises(TraceError, match=":1: a line of more than 200 bytes"):
        read_trace(path)
    trace = read_trace(path, skip_bad_lines=True)
    assert (len(trace), trace.bad_lines) == (1, 1)


def test_a_line_without_end_is_read_in_bounded_memory(tmp_path):
    path = tmp_path / "bomb.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
        file.write(b"\n" + TWO)
    assert path.stat().st_size < 1 << 20
    tracemalloc.start()
    try:
        trace = read_trace(path, skip_bad_lines=True)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert (len(trace), trace.bad_lines) == (2, 1)
    assert most < 4 * lines.LONGEST_LINE


@pytest.mark.parametrize(
    ("name", "shown"), [(b"caf\xe9", r"caf\xe9"), (b"caf\xc3\xa9", "caf\N{LATIN SMALL LETTER E WITH ACUTE}")]
)
def test_the_name_of_a_trace_is_text(tmp_path, name, shown):
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
    path.write_bytes(TWO)
    assert read_trace(path).name == shown
