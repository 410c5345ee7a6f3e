"""Pages of HTML about runs: one file each, without scripts and without links to others."""

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from kvgpu.report.document import BOUND, Run
from kvgpu.report.plot import shown
from kvgpu.report.plots_of_runs import plots
from kvgpu.report.rows import ORDER_COLUMNS, changed_settings, order_rows, rows_of, side_by_side
from kvgpu.report.sentences import differences, sentences
from kvgpu.report.style import STYLE


def write_report(file: BinaryIO, run: Run) -> None:
    """Write the page of one run.

    Raises:
        OSError: The file cannot be written.

    O(orders^2).
    """
    parts = [
        f"<h1>Replay of {shown(run.trace)}</h1>",
        f'<p class="under">{shown(_under(run))}</p>',
        _says(sentences(run)),
        _tiles(run),
        _plots([run], [""]),
        *_orders([run], [""]),
        *_settings([run], ["value"]),
        f"<details><summary>All figures</summary>{_table((), rows_of(run))}</details>",
    ]
    _write(file, f"kvgpu replay: {run.trace}", parts)


def write_comparison(file: BinaryIO, runs: Sequence[Run], names: Sequence[str]) -> None:
    """Write the page of two or more runs, side by side.

    Args:
        file: To write to.
        runs: The runs; others are compared with the first.
        names: Of each run, all different.

    Raises:
        OSError: The file cannot be written.

    O(runs * orders^2).
    """
    traces = ", ".join(dict.fromkeys(run.trace for run in runs))
    parts = [
        f"<h1>{shown(' beside '.join(names))}</h1>",
        f'<p class="under">Replays of {shown(traces)}</p>',
        _says(differences(runs, names)),
        _plots(runs, names),
        "<h2>Figures</h2>",
        _table(("", *names), side_by_side(runs), differs=True),
        *_orders(runs, names),
        *_settings(runs, names),
    ]
    _write(file, f"kvgpu compare: {', '.join(names)}", parts)


def _write(file: BinaryIO, title: str, parts: Iterable[str]) -> None:
    head = (
        '<!doctype html><html lang="en"><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{shown(title)}</title><style>{STYLE}</style>"
    )
    file.write("".join([head, *parts, "</html>\n"]).encode())


def _under(run: Run) -> str:
    about = [f"{run.requests:,} requests", f"{run.num_blocks:,} blocks", f"eviction {run.eviction}"]
    if run.behaviour != "0.23":
        about.append(f"behaviour {run.behaviour}")
    return " · ".join([*about, f"backend {run.backend}"])


def _says(found: Sequence[str]) -> str:
    return f'<p class="says">{shown(" ".join(found))}</p>'


def _tiles(run: Run) -> str:
    tiles = [
        (f"{run.hit_rate:.1%}", "of the prompt tokens hit"),
        (f"{run.ideal_hit_rate:.1%}", "would hit an endless cache"),
    ]
    bound = run.at(run.num_blocks, BOUND)
    if bound is not None and bound.hit_rate is not None:
        tiles.append((f"{bound.hit_rate:.1%}", "are the most that any order of eviction could hit"))
    if run.recomputed_tokens is not None:
        tiles.append((f"{run.recomputed_tokens:,}", "tokens computed again"))
    tiles.append((f"{run.evictions:,}", "blocks evicted"))
    if run.early_evictions is not None:
        tiles.append((f"{run.early_evictions:,}", "of them asked for within a minute"))
    shown_tiles = "".join(f'<div class="tile"><b>{value}</b><span>{text}</span></div>' for value, text in tiles)
    return f'<div class="tiles">{shown_tiles}</div>'


def _plots(runs: Sequence[Run], names: Sequence[str]) -> str:
    found = plots(runs, names)
    return f'<h2>Plots</h2><div class="plots">{"".join(found)}</div>' if found else ""


def _orders(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return a table of the orders of eviction and pools of all runs that have several."""
    rows = []
    for run, name in zip(runs, names, strict=True):
        if len(run.orders_of_eviction) < 2:
            continue
        for order, cells in zip(run.orders_of_eviction, order_rows(run), strict=True):
            shown_cells = [f"<td>{shown(cell)}</td>" for cell in cells]
            shown_cells[1] = f'<td class="text">{shown(cells[1])}</td>'
            if order.hit_rate is not None:
                shown_cells[2] = f'<td class="bar" style="--share:{order.hit_rate:.1%}">{shown(cells[2])}</td>'
            first = [f"<td>{shown(name)}</td>"] if len(runs) > 1 else []
            chosen = (order.eviction, order.num_blocks) == (run.eviction, run.num_blocks)
            mark = ' class="chosen"' if chosen and len(runs) == 1 else ""
            rows.append(f"<tr{mark}>{''.join(first + shown_cells)}</tr>")
    if not rows:
        return []
    columns = ("run", *ORDER_COLUMNS) if len(runs) > 1 else ORDER_COLUMNS
    head = "".join(f"<th{' class=text' if name == 'eviction' else ''}>{name}</th>" for name in columns)
    notes = (
        "<p class=under>of bound: share of what any order of eviction could hit with so many blocks, by Belady's MIN. "
        "early: evicted blocks that a prompt asked for within a minute.</p>"
    )
    return [
        "<h2>Orders of eviction</h2>",
        f'<div class="scroll"><table><tr>{head}</tr>{"".join(rows)}</table></div>',
        notes,
    ]


def _settings(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    rows = changed_settings(runs)
    versions = list(dict.fromkeys(run.git for run in runs if run.git))
    version = f" kvgpu {', '.join(versions)}." if versions else ""
    if not rows:
        return ["<h2>Settings</h2>", f'<p class="under">All options have their defaults.{shown(version)}</p>']
    return [
        "<h2>Settings</h2>",
        _table(("", *names), rows, differs=len(runs) > 1),
        f'<p class="under">All other options have their defaults.{shown(version)}</p>',
    ]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]], differs: bool = False) -> str:
    """Return a table; `differs` shows cells that are not like the first of their row."""
    parts = [f"<tr>{''.join(f'<th>{shown(name)}</th>' for name in head)}</tr>"] if head else []
    for name, *cells in rows:
        shown_cells = [
            f"<td{' class=other' if differs and cell != cells[0] else ''}>{shown(cell)}</td>" for cell in cells
        ]
        parts.append(f"<tr><td>{shown(name)}</td>{''.join(shown_cells)}</tr>")
    return f'<div class="scroll"><table>{"".join(parts)}</table></div>'
