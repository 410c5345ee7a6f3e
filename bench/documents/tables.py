"""Writes the tables of README.md and docs/ from the rows in bench/data, so that every figure there is a row.

    python bench/documents/tables.py [--check]

A page marks where a table goes, and which rows it shows:

    <!-- rows steps: ^free, full -->
    <!-- end -->

The name is that of a CSV file; the words behind it are a regular expression for "metric, case, peer", with the
name of the GPU in front of the peer where one gave the figure. What matches its groups is what the table calls the
row, else metric and case. Exit status: 0; 1 if `--check`, which changes nothing, finds a table out of date; 2 if a
marker finds no rows.
"""

import argparse
import csv
import re
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DATA = ROOT / "bench" / "data"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
MARKER = re.compile(r"(<!-- rows (\w+): (.+?) -->\n)(.*?)(<!-- end -->)", re.S)

Record = dict[str, str]


def figure(text: str) -> str:
    """A figure in three digits or with thousands set apart."""
    value = float(text)
    if value and abs(value) < 1e-3:
        return f"{value:.2g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def spread(record: Record, name: str, low: str, high: str, unit: str = "") -> str:
    """A median with its 20th and 80th percentile, where there are some."""
    if not record[name]:
        return ""
    text = figure(record[name]) + unit
    if not record[low]:
        return text
    return f"{text} ({figure(record[low])} to {figure(record[high])})"


def goal(record: Record) -> str:
    """The goal, and whether it is met."""
    if not record["goal"]:
        return ""
    text = record["goal"].replace(">=", "at least").replace("<=", "at most")
    return text + (": met" if record["met"] == "True" else ": **missed**")


def table(rows: list[tuple[str, Record]]) -> str:
    """Markdown of named rows; columns that all leave empty are left out."""
    columns = {
        "": [name for name, _ in rows],
        "kvgpu": [f"{spread(record, 'kvgpu', 'low', 'high')} {record['unit']}" for _, record in rows],
        "beside": [
            f"{spread(record, 'peer', 'peer_low', 'peer_high')} {record['peer_name']}".strip() for _, record in rows
        ],
        "ratio": [spread(record, "ratio", "ratio_low", "ratio_high", "x") for _, record in rows],
        "goal": [goal(record) for _, record in rows],
    }
    shown = {name: cells for name, cells in columns.items() if any(cells)}
    lines = [list(shown), ["---"] * len(shown), *map(list, zip(*shown.values(), strict=True))]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def selected(name: str, pattern: str, data: Path = DATA) -> list[tuple[str, Record]]:
    """Rows of a CSV file whose "metric, case, device, peer" the pattern finds, with what to call them.

    Raises:
        LookupError: There are none.
    """
    rows = []
    with (data / f"{name}.csv").open(newline="") as file:
        for record in csv.DictReader(file):
            named = (record["metric"], record["case"], record.get("device"))
            words = ", ".join(filter(None, named))
            found = re.search(pattern, f"{words}, {record['peer_name']}")
            if found:
                groups = [group for group in found.groups() if group]
                rows.append((", ".join(groups) or words, record))
    if not rows:
        raise LookupError(f"no row of {name}.csv is found by: {pattern}")
    return rows


def filled_in(text: str, data: Path = DATA) -> str:
    """A page with its tables as the rows have them now.

    Raises:
        LookupError: A marker finds no rows.
    """

    def fill(found: re.Match[str]) -> str:
        begin, name, pattern, _, end = found.groups()
        return f"{begin}\n{table(selected(name, pattern, data))}\n{end}"

    return MARKER.sub(fill, text)


def main() -> int:
    """Fill all pages in."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--check", action="store_true", help="only say what would change")
    options = parser.parse_args()
    status = 0
    for page in PAGES:
        before = page.read_text(encoding="utf-8")
        try:
            after = filled_in(before)
        except (LookupError, OSError) as error:
            print(f"{page.name}: {error}", file=sys.stderr)
            return 2
        if after != before:
            status = 1
            print(f"{page.relative_to(ROOT)}: {'is out of date' if options.check else 'written'}")
            if not options.check:
                page.write_text(after, encoding="utf-8")
    return status if options.check else 0


if __name__ == "__main__":
    sys.exit(main())
