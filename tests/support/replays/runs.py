"""Runs for reports, as JSON has them, without a replay."""

from typing import Any

import msgspec

from kvgpu.report.document import Order, OverTime, Run

SIZES = (100, 200, 400)


def order(eviction: str, num_blocks: int, hit_rate: float | None, **fields: Any) -> Order:
    """What one order did; counts are made up for all but a bound."""
    counts = {} if eviction == "belady" else {"recomputed_tokens": 50, "evictions": 9, "early_evictions": 4}
    return Order(eviction, num_blocks, hit_rate, **(counts | fields))


def run(**fields: Any) -> Run:
    """A run of 20 requests on 200 blocks, with two orders, the bound and three pools."""
    orders = [
        order(name, size, rates[place])
        for place, size in enumerate(SIZES)
        for name, rates in {"lru": (0.2, 0.3, 0.36), "arc": (0.21, 0.32, 0.37), "belady": (0.3, 0.38, 0.4)}.items()
    ]
    good = Run(
        trace="chats.jsonl",
        requests=20,
        prompt_tokens=1000,
        hit_tokens=300,
        hit_rate=0.3,
        ideal_hit_rate=0.4,
        num_blocks=200,
        computed_tokens=800,
        recomputed_tokens=100,
        evictions=9,
        early_evictions=4,
        seconds={"hash": 0.5, "lookup": 0.25},
        us_per_block={"hash": 2.0, "lookup": None},
        handled={"hash": 250_000, "lookup": 0},
        backend="host",
        git="v1-2-gabc",
        settings={"--num-blocks": "200"},
        orders_of_eviction=orders,
        over_time=OverTime([10, 20], [0.1, 0.5], [0.1, 0.3], [0.5, 1.0]),
        quantiles={"lookup": [float(value) for value in range(1, 20)], "allocate": [float(v) for v in range(2, 21)]},
    )
    return msgspec.structs.replace(good, **fields)
