"""The report of a replay: one HTML file without external links."""

import html
import io
from typing import Any, BinaryIO

import numpy as np

from kvgpu.console.printable import printable
from kvgpu.errors import ConfigError
from kvgpu.replay.result import PHASES, ReplayResult

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .2rem .8rem; text-align: right }
td:first-child, th:first-child { text-align: left } tr { border-bottom: 1px solid #ddd }
svg { max-width: 100%; height: auto } code { background: #f4f4f4; padding: 0 .2rem }
"""


def table_rows(result: ReplayResult) -> list[tuple[str, str]]:
    """Return the rows that the terminal and the report show of one replay."""
    per_block = result.us_per_block
    rows = [
        ("requests served / rejected", f"{result.requests:,} / {result.rejected:,}"),
        ("prompt tokens", f"{result.prompt_tokens:,}"),
        ("hit rate (prompt tokens)", f"{result.hit_rate:.1%}"),
        ("hit rate of an endless cache", f"{result.ideal_hit_rate:.1%}"),
        ("prompt blocks", f"{result.prompt_blocks:,}"),
        ("output tokens", f"{result.output_tokens:,}"),
        ("tokens computed", f"{result.computed_tokens:,}"),
        ("steps", f"{result.steps:,}"),
        ("evictions / preemptions", f"{result.evictions:,} / {result.preemptions:,}"),
        ("peak usage of the pool", f"{result.peak_usage:.1%} of {result.num_blocks:,} blocks"),
        ("pool, bytes per block", f"{result.pool_bytes_per_block:.1f}"),
    ]
    for phase in PHASES:
        cost = per_block[phase]
        text = f"{result.seconds[phase]:.2f} s"
        if cost is not None:
            unit = {"decode": "call", "order": "request"}.get(phase, "block")
            text += f", {cost:.3f} us a {unit} ({result.blocks_of[phase]:,} {unit}s)"
        rows.append((f"time: {phase}", text))
    waits = result.as_dict()["waiting_ms"]
    if waits is not None:
        rows.append(("virtual time", f"{result.virtual_seconds:,.1f} s"))
        rows.append(("waiting, mean / p50 / p99", " / ".join(f"{waits[k]:,.0f} ms" for k in waits)))
    return rows


def _rolling(values: np.ndarray, window: int) -> np.ndarray:
    sums = np.cumsum(np.insert(values, 0, 0.0))
    begin = np.maximum(np.arange(len(values)) + 1 - window, 0)
    return np.asarray(sums[1:] - sums[begin])


def plotting() -> Any:
    """Return the module that draws. A replay calls this before it begins, so that a missing module stops it at once.

    Raises:
        ConfigError: The module is not installed, or cannot be imported.
    """
    try:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot
    except ImportError as error:
        raise ConfigError(f"a report needs matplotlib: install kvgpu[report], or omit --report ({error})") from None
    return pyplot


def _figure(result: ReplayResult, sweep: list[ReplayResult]) -> str:
    plt = plotting()
    samples = np.array(result.samples, np.float64).reshape(-1, 4)
    waits = result.virtual_seconds is not None
    shape = (3, 2, (11, 11)) if waits else (2, 2, (11, 7.5))
    figure, axes = plt.subplots(*shape[:2], figsize=shape[2], constrained_layout=True)
    place = np.arange(1, len(samples) + 1)

    axis = axes[0, 0]
    axis.set(title="Hit rate over time", xlabel="request admitted", ylabel="hit rate of prompt tokens")
    window = max(len(samples) // 50, 20)
    if len(samples):
        share = _rolling(samples[:, 1], window) / _rolling(samples[:, 0], window)
        axis.plot(place, share, lw=1, label=f"last {window} requests")
        axis.plot(place, samples[:, 1].cumsum() / samples[:, 0].cumsum(), label="so far")
    axis.axhline(result.ideal_hit_rate, ls="--", color="grey", label="endless cache")
    axis.set_ylim(0, 1)
    axis.legend()

    axis = axes[0, 1]
    axis.set(title="Usage over time", xlabel="request admitted", ylabel="fraction of blocks in use")
    axis.plot(place, samples[:, 2], lw=1)
    axis.set_ylim(0, 1.02)

    axis = axes[1, 0]
    axis.set(title="Hit rate against capacity", xlabel="blocks in the pool", ylabel="hit rate")
    points = sorted({r.num_blocks: r.hit_rate for r in [*sweep, result]}.items())
    axis.plot(*zip(*points, strict=True), marker="o")
    axis.axhline(result.ideal_hit_rate, ls="--", color="grey", label="endless cache")
    axis.set_xscale("log")
    axis.set_ylim(0, 1)
    axis.legend()

    axis = axes[1, 1]
    axis.set(title="Latency of one call", xlabel="microseconds", ylabel="calls")
    for phase, seconds in result.latencies.items():
        if seconds:
            micros = np.maximum(np.array(seconds) * 1e6, 0.1)
            bins = np.geomspace(micros.min(), max(micros.max(), micros.min() * 1.1), 50)
            axis.hist(micros, bins, histtype="step", label=phase)
    axis.set_xscale("log")
    axis.legend()

    if waits:
        seconds_waited = samples[:, 3] / 1e3
        axis = axes[2, 0]
        axis.set(title="Waiting time over time", xlabel="request admitted", ylabel="seconds")
        axis.plot(place, seconds_waited, lw=1)
        axis = axes[2, 1]
        axis.set(title="Waiting time", xlabel="seconds", ylabel="requests that waited no longer")
        axis.plot(np.sort(seconds_waited), place / max(len(place), 1))
        axis.set_ylim(0, 1.02)

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg")
    plt.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def _table(rows: list[tuple[str, str]]) -> str:
    cells = "".join(f"<tr><td>{_text(k)}</td><td>{_text(v)}</td></tr>" for k, v in rows)
    return f"<table>{cells}</table>"


def _text(shown: str) -> str:
    return html.escape(printable(shown))


def write_report(
    file: BinaryIO, title: str, settings: dict[str, Any], result: ReplayResult, sweep: list[ReplayResult]
) -> None:
    """Write the report.

    Args:
        file: File to write the report to.
        title: Name of the trace.
        settings: Options of the replay, for readers who want to repeat it.
        result: Result of the replay.
        sweep: Results of replays on other pool sizes; may be empty.

    Raises:
        ConfigError: matplotlib is not installed.
        OSError: The file cannot be written.
    """
    figure = _figure(result, sweep)
    shown = [(name, str(value)) for name, value in settings.items()]
    parts = [
        "<!doctype html><html lang=en><meta charset=utf-8>",
        f"<title>kvgpu replay: {_text(title)}</title><style>{_STYLE}</style>",
        f"<h1>Replay of {_text(title)}</h1>",
        _table(table_rows(result)),
        figure,
    ]
    if sweep:
        rows = [(f"{r.num_blocks:,} blocks", f"{r.hit_rate:.2%}") for r in sweep]
        parts += ["<h2>Hit rate against capacity</h2>", _table(rows)]
    parts += ["<h2>Settings</h2>", _table(shown), "</html>"]
    file.write("".join(parts).encode())
