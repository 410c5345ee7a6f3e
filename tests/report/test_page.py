"""The pages: HTML files that need nothing else."""

import io
import re
from html.parser import HTMLParser

import pytest
from support.replays.runs import run

from kvgpu.report.page import write_comparison, write_report
from kvgpu.report.rows import rows_of
from kvgpu.report.sentences import sentences
from kvgpu.report.style import COLORS, STYLE

NASTY = '<script>alert(1)</script> & "quotes"'


class Tags(HTMLParser):
    """Every start tag with its attributes, the text of the cells of tables, and all text."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.cells, self.text = [], [], ""
        self.unclosed = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "td":
            self.cells.append("")
        if tag not in ("meta", "input", "path", "circle", "rect"):
            self.unclosed.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.unclosed.pop() == tag

    def handle_data(self, data):
        self.text += data
        if "td" in self.unclosed:
            self.cells[-1] += data


def page_of(*runs, names=("a", "b", "c")):
    file = io.BytesIO()
    if len(runs) == 1:
        write_report(file, *runs)
    else:
        write_comparison(file, runs, names[: len(runs)])
    return file.getvalue().decode()


PAGES = {
    "one run": page_of(run(trace=NASTY, git=NASTY, settings={NASTY: NASTY}, eviction=NASTY)),
    "two runs": page_of(run(trace=NASTY), run(settings={NASTY: NASTY}), names=(NASTY, "b")),
}
pages = pytest.mark.parametrize("page", PAGES.values(), ids=PAGES.keys())


@pages
def test_it_loads_nothing_from_outside(page):
    links = [
        value
        for _, attributes in Tags(page).tags
        for name, value in attributes.items()
        if name in ("src", "srcset", "href", "xlink:href", "data", "action", "poster")
    ]
    assert links == []


@pages
def test_its_styles_load_nothing_from_outside(page):
    assert re.findall(r"@import|url\(", page) == []


@pages
def test_it_has_no_scripts_and_no_frames(page):
    forbidden = {"script", "link", "iframe", "object", "embed", "img", "base"}
    tags = Tags(page).tags
    assert {tag for tag, _ in tags} & forbidden == set()
    assert [name for _, attributes in tags for name in attributes if name.startswith("on")] == []


@pages
def test_its_tags_are_closed(page):
    assert Tags(page).unclosed == []


@pages
def test_names_are_escaped(page):
    assert "<script" not in page
    assert "&lt;script&gt;" in page


@pages
def test_no_two_elements_have_the_same_id(page):
    ids = [attributes["id"] for _, attributes in Tags(page).tags if "id" in attributes]
    assert len(ids) == len(set(ids)) > 0


def test_what_a_terminal_or_a_page_would_obey_is_shown():
    page = page_of(run(trace="a\x1b[31m\udce9", settings={"trace": "\N{RIGHT-TO-LEFT OVERRIDE}"}))
    assert "<h1>Replay of a\\x1b[31m\\udce9</h1>" in page
    assert "<td>\\u202e</td>" in page


def captions(page):
    return re.findall("<figcaption>(.*?)</figcaption>", page)


def test_one_run_has_these_plots():
    assert captions(page_of(run())) == [
        "Hit rate against capacity",
        "Hit rate over the trace",
        "Usage of the pool",
        "Latency of one call",
    ]


def test_a_run_in_virtual_time_shows_how_long_requests_waited():
    timed = run(quantiles={"waiting": [0.0] * 10 + [1.0] * 9})
    timed.over_time.waiting_s = [0.5, 0.25]
    assert {"Waiting time over the trace", "Waiting time"} <= set(captions(page_of(timed)))


def test_a_run_without_series_has_no_plots_of_them():
    bare = run(over_time=type(run().over_time)(), quantiles={}, orders_of_eviction=[])
    assert captions(page_of(bare)) == []


def test_it_holds_all_figures_of_the_terminal():
    cells = Tags(page_of(run())).cells
    assert [cell for row in rows_of(run()) for cell in row if cell not in cells] == []


def test_it_begins_with_what_the_figures_say():
    assert " ".join(sentences(run())) in Tags(page_of(run())).text


def test_settings_are_those_that_differ_from_the_defaults():
    assert "--num-blocks200All other options have their defaults. kvgpu v1-2-gabc." in Tags(page_of(run())).text
    assert "All options have their defaults." in Tags(page_of(run(settings={}))).text


def test_the_table_of_orders_has_a_row_for_each_order_and_pool():
    cells = Tags(page_of(run())).cells
    at = cells.index("arc")
    assert cells[at - 1 : at + 7] == ["100", "arc", "21.00%", "70.0%", "50", "9", "4", "-"]


def test_the_pointer_shows_the_values_of_all_lines_at_its_place():
    tips = re.findall('<g class="tip">(.*?)</g>', page_of(run()))
    texts = [re.findall("<text[^>]*>(.*?)</text>", tip) for tip in tips]
    assert [
        "blocks in the pool: 200",
        "endless cache  40%",
        "any order could (bound)  38%",
        "arc  32%",
        "lru  30%",
    ] in texts


def test_a_line_can_be_switched_off():
    page = page_of(run())
    (switch,) = re.findall(r'<input type="checkbox" id="([\w-]+)" checked>(?:(?!<input).)*?arc</label>', page)
    assert f"#capacity:has(#{switch}:not(:checked)) .l{switch.split('-')[1]}{{display:none}}" in page


def test_a_line_that_is_alone_has_no_switch():
    page = page_of(run())
    figure = page[page.index('<figure id="usage">') :]
    assert '<path class="l0' in figure
    assert "<label>" not in figure[: figure.index("</figure>")]


def test_runs_side_by_side_share_their_plots():
    page = page_of(run(), run(hit_rate=0.35, orders_of_eviction=[]), run())
    assert captions(page)[:2] == ["Hit rate against capacity", "Hit rate so far, over the trace"]
    figure = page[page.index('<figure id="rate">') :]
    assert re.findall("</svg>([^<]*)</label>", figure[: figure.index("</figure>")]) == ["a", "b", "c"]


def test_figures_that_differ_from_the_first_run_stand_out():
    page = page_of(run(), run(hit_rate=0.35))
    assert "<td>30.0%</td><td class=other>35.0%</td>" in page
    assert "<td>40.0%</td><td>40.0%</td>" in page


def test_settings_of_runs_stand_side_by_side():
    page = page_of(run(), run(settings={"--eviction": "arc"}))
    assert "<td>--num-blocks</td><td>200</td><td class=other>default</td>" in page
    assert "<td>--eviction</td><td>default</td><td class=other>arc</td>" in page


def luminance(color):
    parts = [int(color[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize(("mode", "ground"), [("light", "#ffffff"), ("dark", "#16181d")])
def test_lines_stand_out_from_the_ground(mode, ground):
    for color in COLORS[mode]:
        low, high = sorted((luminance(color), luminance(ground)))
        assert (high + 0.05) / (low + 0.05) >= 3


def test_there_is_a_dark_style():
    assert "@media(prefers-color-scheme:dark)" in STYLE
