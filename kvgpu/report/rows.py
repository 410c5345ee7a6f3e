"""Tables of runs, as rows of text, for terminals and for pages."""

from collections.abc import Sequence

from kvgpu.report.document import BOUND, Order, Run

NOTHING = "-"
"""In the place of a figure that there is not."""

ORDER_COLUMNS = ("blocks", "eviction", "hit rate", "of bound", "computed again", "evictions", "early", "preemptions")
"""`of bound`: the hit rate as a share of the bound. `early`: evicted blocks asked for within a minute."""


def rows_of(run: Run) -> list[tuple[str, str]]:
    """Return (name, figure) of all that one run counted and measured. O(phases)."""
    rows = [
        ("requests served / rejected", f"{run.requests:,} / {run.rejected:,}"),
        ("prompt tokens", f"{run.prompt_tokens:,}"),
        ("hit rate (prompt tokens)", f"{run.hit_rate:.1%}"),
        ("hit rate of an endless cache", f"{run.ideal_hit_rate:.1%}"),
        ("prompt blocks", f"{run.blocks:,}"),
        ("output tokens", f"{run.output_tokens:,}"),
        ("tokens computed", f"{run.computed_tokens:,}"),
        ("tokens computed again", _count(run.recomputed_tokens)),
        ("steps", f"{run.steps:,}"),
        ("evictions / preemptions", f"{run.evictions:,} / {run.preemptions:,}"),
        ("early evictions (1 minute)", _count(run.early_evictions)),
        ("peak usage of the pool", f"{run.peak_usage:.1%} of {run.num_blocks:,} blocks"),
        ("pool, bytes per block", f"{run.pool_bytes_per_block:.1f}"),
    ]
    if run.bad_lines:
        rows.append(("bad lines skipped", f"{run.bad_lines:,}"))
    if run.snapshot is not None and run.snapshot.loaded_blocks is None:
        rows.append(("snapshot", "written; a replay that begins with it shows what it is worth"))
    elif run.snapshot is not None:
        rows.append(("blocks cached by the snapshot", f"{run.snapshot.loaded_blocks:,}"))
        rows.append(("hit rate after a cold start", f"{run.cold_hit_rate:.1%}"))
    for phase, seconds in run.seconds.items():
        text = f"{seconds:.2f} s"
        cost = run.us_per_block.get(phase)
        if cost is not None:
            unit = {"decode": "call", "order": "request"}.get(phase, "block")
            handled = f" ({run.handled[phase]:,} {unit}s)" if phase in run.handled else ""
            text += f", {cost:.3f} us a {unit}{handled}"
        rows.append((f"time: {phase}", text))
    if run.virtual_seconds is not None and run.waiting_ms is not None:
        rows.append(("virtual time", f"{run.virtual_seconds:,.1f} s"))
        rows.append(("waiting, mean / p50 / p99", " / ".join(f"{ms:,.0f} ms" for ms in run.waiting_ms.values())))
    return rows


def order_rows(run: Run) -> list[tuple[str, ...]]:
    """Return the figures of all orders of eviction and pools, as `ORDER_COLUMNS` says. O(orders^2)."""
    return [_order_row(run, order) for order in run.orders_of_eviction]


def _order_row(run: Run, order: Order) -> tuple[str, ...]:
    bound = run.at(order.num_blocks, BOUND)
    share = NOTHING
    if bound is not None and bound.hit_rate and order.hit_rate is not None and order is not bound:
        share = f"{order.hit_rate / bound.hit_rate:.1%}"
    return (
        f"{order.num_blocks:,}",
        order.eviction,
        NOTHING if order.hit_rate is None else f"{order.hit_rate:.2%}",
        share,
        _count(order.recomputed_tokens),
        _count(order.evictions),
        _count(order.early_evictions),
        _count(order.preemptions),
    )


def side_by_side(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each figure that some run has, with a cell for each run. O(runs * figures)."""
    tables = [dict(rows_of(run)) for run in runs]
    names = list(dict.fromkeys(name for table in tables for name in table))
    eviction = ("order of eviction", *(run.eviction for run in runs))
    return [eviction, *((name, *(table.get(name, NOTHING) for table in tables)) for name in names)]


def changed_settings(runs: Sequence[Run]) -> list[tuple[str, ...]]:
    """Return a row for each option that some run has set, with its value in each run. O(runs * options)."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    return [(name, *(str(run.settings.get(name, "default")) for run in runs)) for name in names]


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return lines in which columns stand below each other, the first to the left, others to the right. O(cells)."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *map(str.rjust, row[1:], widths[1:])]) for row in rows]


def _count(number: int | None) -> str:
    return NOTHING if number is None else f"{number:,}"
