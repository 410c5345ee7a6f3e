"""The list of cases that are not modelled: what a run is told beside it, and that the document shows it."""

import re
from pathlib import Path

import listed
import pytest
from in_vllm.suites.cases import Case
from listed import Entry, Verdict

ROOT = Path(__file__).resolve().parents[2]
SUITES = [name for name in listed.read() if name != "apart"]


def case(name, outcome, kvgpu=("manager.KVCacheManager",)):
    return Case(f"test_suite.py::{name}", outcome, "why", kvgpu=list(kvgpu))


def wrong(cases, entries, left_out=()):
    return Verdict([case("test_good", "passed"), *cases], entries, set(left_out)).wrong


@pytest.mark.parametrize(
    ("test", "name", "is_named"),
    [
        ("test_a", "test_a", True),
        ("test_a", "test_a[1-b]", True),
        ("test_a", "test_ab", False),
        ("test_a[1-*]", "test_a[1-b]", True),
        ("test_a[1-*]", "test_a[11-b]", False),
        ("test_a[*-2]", "test_a[1::x-2]", True),
        ("test_a[*-2]", "test_a", False),
    ],
)
def test_an_entry_names_cases(test, name, is_named):
    assert Entry("feature", test, 1).names(name) is is_named


def test_a_run_that_is_as_listed_is_good():
    cases = [case("test_good", "passed"), case("test_a[1]", "failed"), case("test_a[2]", "failed")]
    verdict = Verdict(cases, [Entry("sinks", "test_a", 2)], set())
    assert verdict.is_good
    assert verdict.lines()[:3] == [
        "    1  passed on kvgpu",
        "    0  passed, runs nothing of kvgpu",
        "    2  not modelled: sinks",
    ]


def test_a_case_that_fails_and_is_not_listed_is_named_and_bad():
    verdict = Verdict([case("test_good", "passed"), case("test_b", "failed")], [], set())
    assert not verdict.is_good
    assert "failed: test_suite.py::test_b: why" in verdict.lines()


@pytest.mark.parametrize("outcome", ["passed", "skipped"])
def test_a_listed_case_that_does_not_fail_is_wrong(outcome):
    found = wrong([case("test_a", outcome)], [Entry("sinks", "test_a", 1)])
    assert found[0] == f"listed as sinks, and {outcome}: test_suite.py::test_a"


def test_an_entry_without_its_cases_is_wrong():
    found = wrong([case("test_a[1]", "failed")], [Entry("sinks", "test_a", 2), Entry("sinks", "test_gone", 1)])
    assert found == ["listed with 2 cases, and 1 failed: test_a", "listed with 1 cases, and 0 failed: test_gone"]


def test_nothing_is_said_of_what_was_not_to_run():
    assert wrong([], [Entry("sinks", "test_a[1]", 1)], ["test_a"]) == []


def test_a_case_of_two_entries_is_wrong():
    found = wrong([case("test_a[1]", "failed")], [Entry("sinks", "test_a", 1), Entry("rings", "test_a[*]", 1)])
    assert found[0] == "listed twice: test_suite.py::test_a[1]"


def test_what_passes_without_kvgpu_is_counted_apart_and_not_enough():
    verdict = Verdict([case("test_a", "passed", kvgpu=())], [], set())
    assert (len(verdict.passed), len(verdict.empty), verdict.is_good) == (0, 1, False)


@pytest.mark.parametrize(
    ("text", "word"),
    [("[s.a]\nt = 0\n", "without a count: \\['t'\\]"), ("[s.a]\nt = 1\n[s.b]\nt = 1\n", "twice: \\['t'\\]")],
)
def test_a_list_that_contradicts_itself_is_refused(tmp_path, text, word):
    file = tmp_path / "list.toml"
    file.write_text(text)
    with pytest.raises(ValueError, match=word):
        listed.listed("s", file)


@pytest.mark.parametrize("suite", SUITES)
def test_the_list_can_be_read(suite):
    assert all(re.fullmatch(r"test_\w+(\[[^\]]+\])?", entry.test) for entry in listed.listed(suite))


def test_features_that_are_set_apart_are_listed():
    features = {f"{suite}: {feature}" for suite in SUITES for feature in listed.read()[suite]}
    assert set(listed.read()["apart"]) <= features


def test_the_document_shows_the_list():
    text = (ROOT / "docs/semantics.md").read_text(encoding="utf-8")
    assert text.count("<!-- not modelled -->") == 1
    shown = text.partition("<!-- not modelled -->\n")[2].partition("<!-- end -->")[0]
    assert shown == listed.document()
