"""What code and tests cite by number stands in docs/semantics.md, and nothing stands there that nobody cites."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "semantics.md").read_text(encoding="utf-8")

NUMBER = r"B?\d+[a-z]?\b"
CITED = re.compile(rf"\b[Ff]acts?\s+({NUMBER}(?:(?:\s*,\s*|\s+(?:to|and)\s+){NUMBER})*)")
IN_BRACKETS = re.compile(r"\((B\d+[a-z]?(?:(?:, | to | and )B\d+[a-z]?)*)\)")
"""Facts of behaviour 0.33 are also cited by their letter alone."""
ENTRY = re.compile(rf'^ *- <a id="fact-({NUMBER})"></a>\*\*({NUMBER})\*\* (.+)', re.M)
SUFFIXES = {".py", ".cu", ".cuh", ".cpp"}


def numbers_in(text):
    """Every number that a text cites; a range cites all whole numbers from its first to its last."""
    found = set()
    text = re.sub(r"\s+#?\s*", " ", text)
    for match in [*CITED.finditer(text), *IN_BRACKETS.finditer(text)]:
        for part in re.split(r",| and ", match[1]):
            first, _, last = part.strip().partition(" to ")
            letter = "B" if first[0] == "B" else ""
            numbers = range(int(first.lstrip("B")), int(last.lstrip("B")) + 1) if last else ()
            found |= {f"{letter}{number}" for number in numbers} or {first}
    return found


def sources():
    for folder in ("kvgpu", "kernels", "tests", "bench"):
        for path in sorted((ROOT / folder).rglob("*")):
            if path.suffix in SUFFIXES and path != Path(__file__).resolve():
                yield path


CITATIONS = {}
for source in sources():
    for cited in numbers_in(source.read_text(encoding="utf-8")):
        CITATIONS.setdefault(cited, source.relative_to(ROOT).as_posix())
ENTRIES = {entry[1]: entry[3] for entry in ENTRY.finditer(PAGE)}


def order(number):
    return number[0] == "B", int(re.search(r"\d+", number)[0]), number


@pytest.mark.parametrize("number", sorted(CITATIONS, key=order))
def test_a_number_that_is_cited_has_an_entry(number):
    assert number in ENTRIES, f"{CITATIONS[number]} cites fact {number}"


@pytest.mark.parametrize("number", sorted(ENTRIES, key=order))
def test_an_entry_is_cited_or_is_a_step_of_one_that_is(number):
    assert {number, number.rstrip("abcdefghi")} & CITATIONS.keys()


def test_entries_stand_once_in_order_and_under_their_own_anchor():
    written = [(entry[1], entry[2]) for entry in ENTRY.finditer(PAGE)]
    assert [anchor for anchor, _ in written] == [number for _, number in written]
    assert [number for number, _ in written] == sorted(ENTRIES, key=order)
    assert len(written) == PAGE.count('<a id="fact-')


@pytest.mark.parametrize("anchor", sorted(set(re.findall(r"\(#(fact-\w+)\)", PAGE))))
def test_a_link_to_a_fact_leads_to_one(anchor):
    assert anchor.removeprefix("fact-") in ENTRIES


def test_a_quirk_names_facts_that_are_stated():
    rows = re.findall(rf"^\| ({NUMBER}(?:, {NUMBER})*) \|", PAGE, re.M)
    assert rows
    assert {number for row in rows for number in row.split(", ")} <= ENTRIES.keys()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Taken (fact 14).", {"14"}),
        ("facts 5 and 6", {"5", "6"}),
        ("facts 28 to 30, and others", {"28", "29", "30"}),
        ("drafts (facts 37\n    to 39). More", {"37", "38", "39"}),
        ("quirk (fact 53d): blocks", {"53d"}),
        ("tags (facts B2 to B4) and fact B6", {"B2", "B3", "B4", "B6"}),
        ("in fact 3rd", set()),
        ("the facts", set()),
    ],
)
def test_what_counts_as_a_citation(text, expected):
    assert numbers_in(text) == expected
