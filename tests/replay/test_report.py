"""The report: one HTML file that needs nothing else."""

import io
import re
import sys
from html.parser import HTMLParser

import pytest
from support.traces import distinct, serve

from kvgpu.errors import ConfigError
from kvgpu.replay.report import table_rows, write_report
from kvgpu.replay.result import PHASES

NASTY = '<script>alert(1)</script> & "quotes"'


class Tags(HTMLParser):
    """Every start tag with its attributes, and the text of the table cells."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.cells = [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        self.open.append(tag)

    def handle_endtag(self, tag):
        while self.open and self.open.pop() != tag:
            pass

    def handle_data(self, data):
        if "td" in self.open:
            self.cells[-1] += data


def replayed(**limits):
    lengths = [(20, 3), (40, 2), (12, 1)] * 5
    return serve(distinct(*lengths), 30, **limits)[0]


@pytest.fixture(scope="module")
def result():
    return replayed()


@pytest.fixture(scope="module")
def report(result):
    """A report whose names try to break out of it."""
    file = io.BytesIO()
    sweep = [serve(distinct((20, 3), (40, 2)), size)[0] for size in (20, 60)]
    write_report(file, NASTY, {"trace": NASTY, "num_blocks": 30}, result, sweep)
    return file.getvalue().decode()


@pytest.fixture(scope="module")
def page(report):
    return Tags(report)


def test_it_loads_nothing_from_outside(page):
    links = [
        value
        for _, attributes in page.tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
    ]
    assert [link for link in links if not link.startswith(("#", "data:"))] == []


def test_its_styles_load_nothing_from_outside(report):
    assert re.findall(r"@import|url\((?!['\"]?(?:#|data:))", report) == []


def test_it_has_no_scripts_and_no_frames(page):
    forbidden = {"script", "link", "iframe", "object", "embed", "img", "base"}
    assert {tag for tag, _ in page.tags} & forbidden == set()


def test_it_has_four_plots(page):
    plots = [a["id"] for tag, a in page.tags if tag == "g" and re.match(r"axes_\d+$", a.get("id", ""))]
    assert len(plots) == 4


@pytest.mark.parametrize(
    "title", ["Hit rate over time", "Usage over time", "Hit rate against capacity", "Latency of one call"]
)
def test_every_plot_has_its_title(report, title):
    drawing = report[report.index("<svg") : report.index("</svg>")]
    assert title in drawing


def test_names_are_escaped(report):
    assert "<script" not in report
    assert report.count("&lt;script&gt;") == 3


def test_it_holds_the_table_of_the_terminal(page, result):
    expected = [cell for row in table_rows(result) for cell in row]
    assert page.cells[: len(expected)] == expected


def test_it_says_what_it_was_made_with(page):
    assert page.cells[-4:] == ["trace", NASTY, "num_blocks", "30"]


def test_it_lists_the_hit_rate_of_every_pool_size(page):
    assert {"20 blocks", "60 blocks"} <= set(page.cells)


def plots_of(result):
    file = io.BytesIO()
    write_report(file, "t", {}, result, [])
    return len(re.findall(rb'id="axes_\d+"', file.getvalue()))


def test_a_replay_of_rejected_requests_only_can_be_reported():
    assert plots_of(serve(distinct((400, 1)), 10)[0]) == 4


def test_a_replay_in_virtual_time_shows_how_long_requests_waited():
    result = serve(distinct((40, 1), (40, 1)), 60)[0]
    result.virtual_seconds = 1.0
    assert plots_of(result) == 6


def test_without_matplotlib_it_says_what_to_install(result, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ConfigError, match=r"kvgpu\[report\]"):
        write_report(io.BytesIO(), "t", {}, result, [])


def test_what_a_terminal_or_a_page_would_obey_is_shown(result):
    file = io.BytesIO()
    write_report(file, "a\x1b[31m\udce9", {"trace": "\N{RIGHT-TO-LEFT OVERRIDE}"}, result, [])
    page = file.getvalue().decode()
    assert "<h1>Replay of a\\x1b[31m\\udce9</h1>" in page
    assert "<td>\\u202e</td>" in page


@pytest.mark.parametrize("phase", PHASES)
def test_the_table_has_the_time_of_every_phase(result, phase):
    assert f"time: {phase}" in dict(table_rows(result))


@pytest.mark.parametrize("clock", [False, True])
def test_the_table_has_waiting_times_only_on_the_virtual_clock(clock):
    rows = dict(table_rows(replayed(virtual_time=clock)))
    assert any(name.startswith("waiting") for name in rows) is clock


def test_the_table_counts_what_was_served_and_what_was_not():
    result, _ = serve(distinct((8, 1), (400, 1), (8, 1)), 10)
    assert dict(table_rows(result))["requests served / rejected"] == "2 / 1"
