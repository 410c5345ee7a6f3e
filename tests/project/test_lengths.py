"""No file of code is longer than a reader takes in at a sitting."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MOST_LINES = 300


def test_no_file_is_too_long():
    files = [path for top in ("kernels", "kvgpu", "tests", "bench") for path in (ROOT / top).rglob("*.py")]
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text().splitlines()) for path in files}
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > MOST_LINES} == {}
