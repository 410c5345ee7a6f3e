"""The plots of one run, or of several runs in common axes."""

from collections.abc import Callable, Sequence

from kvgpu.report.axes import Axis, count, linear_axis, log_axis, percent, unit_axis
from kvgpu.report.document import BOUND, SHARES, Run
from kvgpu.report.plot import GREY, Line, plot

ENDLESS = "endless cache"
BOUND_LABEL = "any order could (bound)"


def plots(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Return the figures that these runs have data for.

    Args:
        runs: One or more.
        names: Of each, "" for a single one.

    O(points * lines).
    """
    found = [_capacity(runs, names), *_over_time(runs, names), _latency(runs, names)]
    if any("waiting" in run.quantiles for run in runs):
        found.append(_waiting(runs, names))
    return [figure for figure in found if figure]


def _named(name: str, label: str) -> str:
    return f"{name}: {label}" if name and label else name or label


def _capacity(runs: Sequence[Run], names: Sequence[str]) -> str:
    """Return hit rate against the size of the pool, for each order of eviction of each run."""
    lines: list[Line] = []
    bounds: dict[tuple[tuple[float, float], ...], str] = {}
    for run, name in zip(runs, names, strict=True):
        sizes = run.sizes()
        if len(sizes) < 2:
            continue
        for eviction in dict.fromkeys(order.eviction for order in run.orders_of_eviction):
            points = tuple(
                (float(order.num_blocks), order.hit_rate)
                for size in sizes
                if (order := run.at(size, eviction)) is not None and order.hit_rate is not None
            )
            if eviction == BOUND:
                bounds.setdefault(points, _named(name, BOUND_LABEL))
            else:
                lines.append(Line(_named(name, eviction), points, len(lines)))
        ceiling = tuple((float(size), run.ideal_hit_rate) for size in sizes)
        bounds.setdefault(ceiling, _named(name, ENDLESS))
    lines += [Line(label, points, GREY) for points, label in bounds.items()]
    if not lines:
        return ""
    places = {at for line in lines for at, _ in line.points}
    x = log_axis("blocks in the pool", places, count)._replace(written=tuple(places))
    return plot("capacity", "Hit rate against capacity", x, _rates(lines), lines)


def _rates(lines: Sequence[Line]) -> Axis:
    return unit_axis("hit rate of prompt tokens", [value for line in lines for _, value in line.points])


def _over_time(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    rates: list[Line] = []
    usage: list[Line] = []
    waits: list[Line] = []
    for run, name in zip(runs, names, strict=True):
        parts, color = run.over_time, len(usage)
        at = [float(number) for number in parts.requests]
        alone = len(runs) == 1
        if alone:
            rates.append(Line("in each part of the trace", _points(at, parts.hit_rate), 0))
        rates.append(Line(name or "so far", _points(at, parts.so_far), 1 if alone else color))
        usage.append(Line(_named(name, ""), _points(at, parts.usage), color))
        waits.append(Line(_named(name, ""), _points(at, parts.waiting_s), color))
    if len(runs) == 1 and runs[0].over_time.requests:
        ceiling = [(float(at), runs[0].ideal_hit_rate) for at in runs[0].over_time.requests]
        rates.append(Line(ENDLESS, ceiling, GREY))
    title = "Hit rate over the trace" if len(runs) == 1 else "Hit rate so far, over the trace"
    seconds = [value for line in waits for _, value in line.points]
    return [
        _by_request("rate", title, rates, _rates(rates)),
        _by_request("usage", "Usage of the pool", usage, Axis("blocks in use", 0.0, 1.0, percent)),
        _by_request("waits", "Waiting time over the trace", waits, linear_axis("seconds", seconds)) if seconds else "",
    ]


def _points(at: Sequence[float], values: Sequence[float]) -> list[tuple[float, float]]:
    return list(zip(at, values, strict=False))


def _by_request(name: str, title: str, lines: Sequence[Line], y: Axis) -> str:
    places = [at for line in lines for at, _ in line.points]
    return plot(name, title, linear_axis("requests admitted", places, count), y, lines) if places else ""


def _latency(runs: Sequence[Run], names: Sequence[str]) -> str:
    phases = [phase for phase in ("lookup", "allocate") if any(phase in run.quantiles for run in runs)]
    return _distribution(
        "latency",
        "Latency of one call",
        "microseconds",
        runs,
        lambda run: {phase: run.quantiles.get(phase, []) for phase in phases},
        names,
    )


def _waiting(runs: Sequence[Run], names: Sequence[str]) -> str:
    return _distribution(
        "waiting", "Waiting time", "seconds", runs, lambda run: {"": run.quantiles.get("waiting", [])}, names
    )


def _distribution(
    name: str,
    title: str,
    unit: str,
    runs: Sequence[Run],
    values_of: Callable[[Run], dict[str, list[float]]],
    names: Sequence[str],
) -> str:
    """Return the share of values that do not exceed each."""
    lines: list[Line] = []
    for run, own in zip(runs, names, strict=True):
        for label, values in values_of(run).items():
            points = [(value, share / 100) for value, share in zip(values, SHARES, strict=False) if value > 0]
            lines.append(Line(_named(own, label), points, len(lines)))
    places = [at for line in lines for at, _ in line.points]
    if not places:
        return ""
    return plot(name, title, log_axis(unit, places), Axis("share that is no longer", 0.0, 1.0, percent), lines)
