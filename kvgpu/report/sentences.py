"""What the figures of a run say, in plain sentences."""

from collections.abc import Sequence

from kvgpu.report.document import BOUND, Order, Run

SMALL = 0.0005
"""Differences of hit rates below this are called none."""


def sentences(run: Run) -> list[str]:
    """Say what one replay shows. O(orders^2)."""
    return [*_restart(run), *_capacity(run), *_best(run), *_losses(run), *_troubles(run)]


def differences(runs: Sequence[Run], names: Sequence[str]) -> list[str]:
    """Say how runs differ, the first from each of the others.

    Args:
        runs: Two or more.
        names: Of each run.

    O(runs * orders).
    """
    found = []
    if len({(run.trace, run.requests + run.rejected) for run in runs}) > 1:
        found.append("These runs did not serve the same requests: their hit rates say little about each other.")
    first = runs[0]
    for run, name in zip(runs[1:], names[1:], strict=True):
        gain = run.hit_rate - first.hit_rate
        if abs(gain) < SMALL:
            text = f"{name} hits as much as {names[0]}, {run.hit_rate:.1%} of the prompt tokens"
        else:
            text = (
                f"{name} hits {run.hit_rate:.1%} of the prompt tokens, {_points(abs(gain))} points "
                f"{'more' if gain > 0 else 'less'} than {names[0]} ({first.hit_rate:.1%})"
            )
        if first.computed_tokens:
            less = 1 - run.computed_tokens / first.computed_tokens
            if abs(less) >= SMALL:
                text += f", and computes {abs(less):.1%} {'fewer' if less > 0 else 'more'} tokens"
        found.append(text + ".")
    return found


def _restart(run: Run) -> list[str]:
    if run.snapshot is None or run.snapshot.loaded_blocks is None:
        return []
    gain = _points(run.hit_rate - run.cold_hit_rate)
    return [
        f"With the snapshot {run.hit_rate:.1%} of the prompt tokens were hit, {gain} points more than after a cold "
        "start. Without it:"
    ]


def _capacity(run: Run) -> list[str]:
    rate = run.cold_hit_rate
    text = f"{run.num_blocks:,} blocks hit {rate:.1%} of the prompt tokens"
    if not run.ideal_hit_rate:
        return [f"{text}; no prompt begins like an earlier one."]
    shares = [f"{_share(rate / run.ideal_hit_rate)} of what an endless cache would hit"]
    bound = run.at(run.num_blocks, BOUND)
    if bound is not None and bound.hit_rate:
        shares.append(f"{_share(rate / bound.hit_rate)} of what any order of eviction could hit with them")
    found = [f"{text}: {', and '.join(shares)}."]
    others = [order for other in run.sizes() if other != run.num_blocks and (order := run.at(other))]
    if others:
        # The largest pool of half the size says most about what could be saved.
        half = [order for order in others if 2 * order.num_blocks <= run.num_blocks]
        chosen = half[-1] if half else others[-1]
        assert chosen.hit_rate is not None
        share = _share(chosen.hit_rate / run.ideal_hit_rate)
        found.append(f"{_relation(chosen, run)} would hit {chosen.hit_rate:.1%}, {share} of an endless cache.")
    return found


def _relation(order: Order, run: Run) -> str:
    shown = f"{order.num_blocks:,} blocks"
    if 2 * order.num_blocks == run.num_blocks:
        return f"Half of them ({shown})"
    return shown


def _best(run: Run) -> list[str]:
    alike = [order for order in run.orders_of_eviction if order.num_blocks == run.num_blocks]
    ranked = sorted((order for order in alike if order.eviction != BOUND), key=lambda order: -(order.hit_rate or 0.0))
    if len(ranked) < 2:
        return []
    best, worst = ranked[0], ranked[-1]
    assert best.hit_rate is not None
    assert worst.hit_rate is not None
    if best.hit_rate - worst.hit_rate < SMALL:
        return [f"All {len(ranked)} orders of eviction hit as much."]
    text = f"Of {len(ranked)} orders of eviction, {best.eviction} hits most ({best.hit_rate:.1%})"
    if best.eviction == run.eviction:
        return [f"{text}, and {worst.eviction} least ({worst.hit_rate:.1%})."]
    gain = best.hit_rate - run.cold_hit_rate
    return [f"{text}, {_points(gain)} points more than {run.eviction}."]


def _losses(run: Run) -> list[str]:
    if not run.evictions:
        return ["Nothing was evicted."]
    found = []
    if run.recomputed_tokens is not None and run.computed_tokens:
        share = run.recomputed_tokens / run.computed_tokens
        found.append(
            f"{run.recomputed_tokens:,} tokens ({share:.1%} of those computed) had been computed before, and were lost "
            "to evictions or preemptions."
        )
    if run.early_evictions is not None:
        found.append(
            f"Of {run.evictions:,} evicted blocks, {run.early_evictions:,} were asked for again within a minute."
        )
    return found


def _troubles(run: Run) -> list[str]:
    found = []
    if run.rejected:
        verb = "request was" if run.rejected == 1 else "requests were"
        found.append(f"{run.rejected:,} {verb} rejected: the pool is smaller than the prompt.")
    if run.preemptions:
        verb = "request was" if run.preemptions == 1 else "times a request was"
        found.append(f"{run.preemptions:,} {verb} preempted, since the pool was full.")
    return found


def _share(share: float) -> str:
    """Return a share in whole percent, unless that would say that nothing is missing, or that there is nothing."""
    return f"{share:.0%}" if 0.01 <= share <= 0.99 or share in (0.0, 1.0) else f"{share:.1%}"


def _points(difference: float) -> str:
    return f"{100 * difference:.1f}"
