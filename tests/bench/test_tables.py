"""Tables and plots made from rows: every figure of the documentation is a row of bench/data."""

import csv
import importlib
import re
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
FIGURE = re.compile(r"(?<![\w.^-])[\d.,]*\d ?(?:ns|us|ms|x|GB/s|%)(?![\w/])")
"""A figure with a unit of speed."""

ROW = {
    "metric": "free",
    "case": "full, 10 requests",
    "peer_name": "other",
    "unit": "ns/block",
    "kvgpu": "12.34",
    "low": "12",
    "high": "13",
    "peer": "2500.4",
    "peer_low": "2400",
    "peer_high": "2600",
    "ratio": "203",
    "ratio_low": "190",
    "ratio_high": "210",
    "goal": ">= 10x",
    "met": "True",
    "device": "",
}


def bench_module(name):
    """A module of bench/, whose others it imports."""
    sys.path.insert(0, str(ROOT / "bench"))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(ROOT / "bench"))


@pytest.fixture(scope="module")
def tables():
    return bench_module("documents.tables")


@pytest.fixture
def data(tmp_path):
    """A directory of rows, and a way to write some."""

    def write(*rows, name="steps"):
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ROW)
            writer.writeheader()
            writer.writerows(ROW | row for row in rows)
        return tmp_path

    return write


def test_a_marker_is_filled_with_its_rows(tables, data):
    path = data({}, {"metric": "track"})
    text = tables.filled_in("a\n<!-- rows steps: ^free -->\nold\n<!-- end -->\nb", path)
    assert text == (
        "a\n<!-- rows steps: ^free -->\n\n"
        "|  | kvgpu | beside | ratio | goal |\n"
        "| --- | --- | --- | --- | --- |\n"
        "| free, full, 10 requests | 12.3 (12 to 13) ns/block | 2,500 (2,400 to 2,600) other "
        "| 203x (190 to 210) | at least 10x: met |\n"
        "\n<!-- end -->\nb"
    )


def test_filling_in_twice_changes_nothing(tables, data):
    path = data({})
    once = tables.filled_in("<!-- rows steps: free -->\n<!-- end -->\n", path)
    assert tables.filled_in(once, path) == once


def test_groups_of_the_pattern_name_the_row(tables, data):
    ((name, _),) = tables.selected("steps", "^(free), full, (10 requests)", data({}))
    assert name == "free, 10 requests"


def test_a_row_of_a_gpu_is_called_by_its_name(tables, data):
    rows = [{}, {"device": "H100"}, {"device": "H200"}]
    path = data(*rows)
    names = [name for name, _ in tables.selected("steps", "free", path)]
    assert names == [f"free, full, 10 requests{device}" for device in ("", ", H100", ", H200")]
    ((_, record),) = tables.selected("steps", "free.*, H200, other", path)
    assert record["device"] == "H200"


def test_a_missed_goal_is_shown_as_missed(tables, data):
    ((_, record),) = tables.selected("steps", "free", data({"met": "False"}))
    assert tables.goal(record) == "at least 10x: **missed**"


def test_columns_that_are_empty_everywhere_are_left_out(tables, data):
    alone = dict.fromkeys(("peer_name", "peer", "ratio", "goal", "met", "peer_low", "ratio_low"), "")
    text = tables.table(tables.selected("steps", "free", data(alone)))
    assert text.splitlines()[0] == "|  | kvgpu |"


def test_a_marker_that_finds_nothing_is_an_error(tables, data):
    path = data({})
    with pytest.raises(LookupError, match="no row of steps"):
        tables.filled_in("<!-- rows steps: nothing -->\n<!-- end -->\n", path)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_tables_of_a_page_are_those_of_the_rows(tables, page):
    text = page.read_text(encoding="utf-8")
    assert tables.filled_in(text) == text, "run: make tables"


@pytest.mark.parametrize("name", ["README.md", "docs/performance.md"])
def test_there_are_no_figures_beside_the_tables(tables, name):
    text = tables.MARKER.sub("", (ROOT / name).read_text(encoding="utf-8"))
    text = re.sub(r"^ {4}.*$|^```.*?^```", "", text, flags=re.M | re.S)
    assert [found for found in FIGURE.findall(text) if found not in ALLOWED] == []


ALLOWED = {"13 %"}
"""Of the trace: how many of its blocks hit."""


def test_a_figure_would_be_found():
    assert FIGURE.findall("at 12.5 ns, 3x and 1,000 us; x86, 0x10, 64 bytes") == ["12.5 ns", "3x", "1,000 us"]


def test_every_plot_is_drawn_from_the_rows_there_are(tmp_path, monkeypatch, capsys):
    plots = bench_module("documents.plots")
    monkeypatch.setattr(sys, "argv", ["plots.py", "--out", str(tmp_path)])
    assert plots.main() == 0
    drawn = {path.stem for path in tmp_path.glob("*.png")}
    left_out = {line.split()[0] for line in capsys.readouterr().err.splitlines()}
    assert drawn | left_out == plots.PLOTS.keys()
    assert left_out <= {"gpu_entries"}


def test_the_pictures_that_are_shown_are_there():
    shown = {
        (page.parent / name).resolve()
        for page in PAGES
        for name in re.findall(r"!\[[^]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
    }
    assert len(shown) >= 4
    assert [path for path in shown if not path.exists()] == []
