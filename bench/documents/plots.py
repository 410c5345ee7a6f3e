"""Pictures of the rows in bench/data, and of the design, for the documentation.

    python bench/documents/plots.py [--out docs/img]

A picture whose rows are not there is left out, and the output says so.
"""

import argparse
import csv
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parents[1]), str(HERE.parent)]

import matplotlib  # noqa: E402

matplotlib.use("Agg")

import matplotlib.pyplot as plt  # noqa: E402
from documents.pictures import data_flow, table_layout  # noqa: E402

OURS, THEIRS, GREY = "#1f77b4", "#d62728", "#888888"
Record = dict[str, str]


def records(name: str, pattern: str, data: Path = HERE.parent / "data") -> list[Record]:
    """Rows of a CSV file whose "metric, case, peer" the pattern finds.

    Raises:
        LookupError: There are none.
    """
    path = data / f"{name}.csv"
    found = []
    if path.exists():
        with path.open(newline="") as file:
            found = [
                row
                for row in csv.DictReader(file)
                if re.search(pattern, f"{row['metric']}, {row['case']}, {row['peer_name']}")
            ]
    if not found:
        raise LookupError(f"no row of {name}.csv is found by: {pattern}")
    return found


def number(pattern: str, text: str) -> float:
    """The number that the group of a pattern finds in the words of a case."""
    found = re.search(pattern, text)
    assert found is not None, (pattern, text)
    return float(found[1].replace(",", "").rstrip("%"))


def ratios(axes: Any) -> None:
    """How many times faster than the peers, beside the goals."""
    chosen = {
        "queue of 200 warm requests": ("queues", r"^match a queue, the last .*vllm"),
        "... beside SGLang": ("steps", r"^match a queue, the last .*sglang"),
        "look up + allocate + cache": ("steps", r"^look up .*, full, .*vllm"),
        "free": ("steps", r"^free, full, .*vllm"),
        "the same, full + 2 windows": ("steps", r"^look up .*, hybrid, .*vllm"),
        "decode step, 1,024 in step": ("steps", r"^decode step, allocate, 1,024 .*in step, vllm"),
        "decode step, 1,024 spread": ("steps", r"^decode step, allocate, 1,024 .*spread, vllm"),
        "replay without hashing": ("steps", r"^whole replay, full, .*vllm"),
        "... beside SGLang, no hashing": ("steps", r"^whole replay, full, .*sglang"),
        "replay, kvgpu128 / sha256": ("hashing", r"^whole replay, .*64 at once, .*vllm"),
        "... beside SGLang, kvgpu128": ("hashing", r"^whole replay, .*64 at once, .*sglang"),
        "hash, sha256 from arrays": ("hashing", r"^hash, sha256, batches .* arrays, .*vllm"),
        "hash, kvgpu128 / sha256": ("hashing", r"^hash, kvgpu128, batches .* arrays, .*vllm"),
    }
    rows = [(name, records(*where)[0]) for name, where in chosen.items()]
    places = range(len(rows), 0, -1)
    values = [float(row["ratio"]) for _, row in rows]
    axes.barh(places, values, color=[THEIRS if "SGLang" in name else OURS for name, _ in rows])
    for place, value, (_, row) in zip(places, values, rows, strict=True):
        goal = re.search(r">= ([\d.]+)x", row["goal"])
        end = max(value, float(goal[1])) if goal else value
        axes.text(end * 1.05, place, f"{value:.3g}x", va="center", fontsize=8)
        if goal:
            axes.plot([float(goal[1])] * 2, [place - 0.4, place + 0.4], color="black", lw=2)
    axes.axvline(1, color=GREY, lw=0.8)
    axes.set_xscale("log")
    axes.set_xlim(0.5, 300)
    axes.set_yticks(list(places), [name for name, _ in rows], fontsize=8)
    axes.set_xlabel("times as fast as vLLM 0.23.0 (blue), SGLang 0.5.23 (red); black: the goal")


def curve(axes: Any, rows: list[Record], x: str, label: str, color: str, key: str = "kvgpu") -> None:
    """A line of one figure over a number in the words of the case, with its spread."""
    points = sorted((number(x, f"{row['metric']}, {row['case']}"), row) for row in rows)
    xs = [place for place, _ in points]
    axes.plot(xs, [float(row[key]) for _, row in points], "o-", color=color, label=label, ms=4)
    low, high = ("low", "high") if key == "kvgpu" else (f"{key}_low", f"{key}_high")
    if all(row[low] for _, row in points):
        axes.fill_between(
            xs, [float(r[low]) for _, r in points], [float(r[high]) for _, r in points], color=color, alpha=0.2
        )


def by_size(axes: Any, x: str, y: str) -> None:
    """Both axes in powers, with their names and a legend."""
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.legend(fontsize=8)


def entries(axes: Any) -> None:
    """The host's table by size, beside what the memory allows."""
    asked = r"(?:entries, load 0.5, 100% hit, (?:8,192|65,536|1,048,576) keys, limit)"
    for name, pattern, color in (
        ("find, hits", f"^find, .*{asked}", OURS),
        ("insert", r"^insert, .* load 0.5,", "#2ca02c"),
        ("erase", r"^erase, .* load 0.5,", "#9467bd"),
    ):
        rows = records("table", pattern)
        curve(axes, rows, r"([\d,]+) entries", name, color)
    curve(axes, rows, r"([\d,]+) entries", "limit: two random lines", GREY, "peer")
    axes.lines[-1].set_linestyle("--")
    by_size(axes, "entries", "ns a key")


def loads(axes: Any) -> None:
    """Buckets that a search reads, by load factor."""
    for name, share, color in (("hit", "100%", OURS), ("miss", "0%", THEIRS)):
        rows = records("table", rf"^buckets read, 1,048,576 entries, load .* {share} hit")
        curve(axes, rows, r"load ([\d.]+)", name, color)
    axes.set_xlabel("load factor")
    axes.set_ylabel("buckets (64 bytes) a key")
    axes.legend()


def decoding(axes: Any) -> None:
    """A decode step by the number of running requests."""
    for metric, color in (("allocate", OURS), (r"append \+ hash", "#2ca02c")):
        rows = records("steps", rf"^decode step, {metric}, .* spread, vllm")
        name = metric.replace("\\", "")
        curve(axes, rows, r"([\d,]+) running", f"kvgpu, {name}", color)
        curve(axes, rows, r"([\d,]+) running", f"vLLM, {name}", color, "peer")
        axes.lines[-1].set_linestyle("--")
    by_size(axes, "running requests", "us a step")


def hashes(axes: Any) -> None:
    """Hash functions beside vLLM's."""
    names = ("sha256", "sha256_cbor", "xxhash", "xxhash_cbor", "kvgpu128")
    bars = {
        "vLLM": ("peer", "one request at a time, from lists", THEIRS),
        "kvgpu, one at a time, lists": ("kvgpu", "one request at a time, from lists", "#aec7e8"),
        "kvgpu, 64 at once, arrays": ("kvgpu", "batches of 64, from arrays", OURS),
    }
    for i, (label, (key, way, color)) in enumerate(bars.items()):
        rows = [records("hashing", f"^hash, {name}, {way}, .*vllm")[0] for name in names]
        heights = [float(row[key]) for row in rows]
        axes.bar([n + 0.27 * (i - 1) for n in range(len(names))], heights, 0.25, label=label, color=color)
    axes.set_yscale("log")
    axes.set_xticks(range(len(names)), names, fontsize=8)
    axes.set_ylabel("ns a block of 16 tokens")
    axes.legend(fontsize=8)


def gpu_entries(axes: Any) -> None:
    """Lookups on each GPU by the size of the table."""
    for engine, color in (("triton", OURS), ("cuda", "#2ca02c")):
        found = records("gpu", rf"^find, {engine}, .* load 0.5, 100% hit, [\d,]+ keys, 2 random")
        for device in sorted({row["device"] for row in found}):
            rows = [row for row in found if row["device"] == device]
            curve(axes, rows, r"([\d,]+) entries", f"{engine}, {device}", color)
            curve(axes, rows, r"([\d,]+) entries", f"{device}: random lines", GREY, "peer")
            axes.lines[-1].set_linestyle("--")
    by_size(axes, "entries", "ns a key")


PLOTS: dict[str, Callable[[Any], None]] = {
    "ratios": ratios,
    "entries": entries,
    "loads": loads,
    "decoding": decoding,
    "hashes": hashes,
    "gpu_entries": gpu_entries,
    "data_flow": data_flow,
    "table_layout": table_layout,
}


def main() -> int:
    """Draw all."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "docs" / "img")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    for name, draw in PLOTS.items():
        figure, axes = plt.subplots(figsize=(7.5, 4), layout="constrained")
        try:
            draw(axes)
            # Without a date or a version the same rows give the same bytes.
            figure.savefig(options.out / f"{name}.png", dpi=110, metadata={"Software": None})
            print(options.out / f"{name}.png")
        except LookupError as error:
            print(f"{name} is left out: {error}", file=sys.stderr)
        plt.close(figure)
    return 0


if __name__ == "__main__":
    sys.exit(main())
