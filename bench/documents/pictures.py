"""Pictures of the design: what flows where, and how the table lies in memory."""

from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch, Rectangle

from kvgpu.layout import SLOTS_PER_BUCKET

CPU, DEVICE, PLAIN = "#dbe9f6", "#d9f0d3", "#f2f2f2"


def _box(axes: Any, x: float, y: float, width: float, height: float, text: str, color: str) -> None:
    style = "round,pad=0.02,rounding_size=0.08"
    axes.add_patch(FancyBboxPatch((x, y), width, height, boxstyle=style, fc=color, ec="#444444"))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", fontsize=8)


def _arrow(axes: Any, start: tuple[float, float], end: tuple[float, float], text: str = "", lift: float = 0.12) -> None:
    axes.add_patch(FancyArrowPatch(start, end, arrowstyle="-|>", mutation_scale=11, color="#444444"))
    if text:
        middle = (start[0] + end[0]) / 2, (start[1] + end[1]) / 2 + lift
        axes.text(*middle, text, ha="center", va="bottom", fontsize=7, color="#444444")


def data_flow(axes: Any) -> None:
    """From tokens to block tables; above the control plane, below the device."""
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 5.2)
    axes.axis("off")
    boxes = (
        (0.1, "tokens\nof requests", PLAIN),
        (1.85, "hashing\n(one hash a block)", CPU),
        (3.75, "index\nhash, group → block", CPU),
        (5.85, "rules, coordinator\nwhat is a hit", CPU),
        (7.95, "manager\nallocate, cache, free", CPU),
    )
    widths = (1.4, 1.6, 1.8, 1.8, 1.95)
    for (x, text, color), width in zip(boxes, widths, strict=True):
        _box(axes, x, 3.3, width, 0.9, text, color)
    for (x, _, _), width, (after, _, _) in zip(boxes, widths, boxes[1:], strict=False):
        _arrow(axes, (x + width + 0.04, 3.75), (after - 0.04, 3.75))
    axes.text(0.1, 4.75, "control plane (CPU): state is arrays, inner loops are compiled", fontsize=9)
    axes.text(0.1, 0.1, "device (GPU): a copy that can be made again at any time", fontsize=9)
    _box(axes, 1.85, 0.75, 1.6, 0.9, "hash arena\nrows of the queue", DEVICE)
    _box(axes, 3.75, 0.75, 1.8, 0.9, "BlockHashTable", DEVICE)
    _box(axes, 5.85, 0.75, 1.8, 0.9, "probe, decide\ntwo launches", DEVICE)
    _box(axes, 7.95, 0.75, 1.95, 0.9, "lengths, block ids\nof all requests", DEVICE)
    _arrow(axes, (2.65, 3.25), (2.65, 1.72))
    axes.text(2.72, 2.45, "track, extend", fontsize=7, color="#444444")
    _arrow(axes, (4.65, 3.25), (4.65, 1.72))
    axes.text(4.72, 2.45, "journal → flush", fontsize=7, color="#444444")
    for start, end in ((3.49, 3.71), (5.59, 5.81), (7.69, 7.91)):
        _arrow(axes, (start, 1.2), (end, 1.2))
    _arrow(axes, (8.9, 1.72), (8.9, 3.25))
    axes.text(8.97, 2.45, "what is asked for", fontsize=7, color="#444444")


def table_layout(axes: Any) -> None:
    """A bucket, a word of it, and the record that it names."""
    axes.set_xlim(0, 10)
    axes.set_ylim(0, 6)
    axes.axis("off")

    def cells(x: float, y: float, parts: list[tuple[float, str, str]]) -> None:
        for width, text, color in parts:
            axes.add_patch(Rectangle((x, y), width, 0.75, fc=color, ec="#444444"))
            axes.text(x + width / 2, y + 0.375, text, ha="center", va="center", fontsize=7)
            x += width

    axes.text(0.1, 5.65, "buckets: 64 bytes each, the upper half of the slot hash chooses one", fontsize=9)
    slots = [(1.05, f"slot {i}", CPU) for i in range(SLOTS_PER_BUCKET)]
    cells(0.1, 4.7, [*slots, (2.3, "8 overflow counters:\nentries that had to go on", PLAIN)])
    axes.text(0.1, 3.75, "a slot: one 64-bit word, exchanged by one compare-and-swap", fontsize=9)
    cells(
        0.1,
        2.8,
        [(3.6, "tag: lower half of the slot hash (32 bits)", CPU), (3.6, "block id + 1 (32 bits); 0: empty", CPU)],
    )
    _arrow(axes, (2.7, 4.65), (2.7, 4.0))
    axes.text(
        0.1,
        1.85,
        "the record of the block: 64 bytes on the CPU; a hit compares all of the key and the group",
        fontsize=9,
    )
    cells(
        0.1,
        0.9,
        [
            (3.2, "hash (32 bytes)", DEVICE),
            (0.8, "group", DEVICE),
            (0.8, "flags", DEVICE),
            (0.8, "ref\ncount", DEVICE),
            (1.4, "free queue\nprev, next", DEVICE),
            (1.4, "same key\nprev, next", DEVICE),
            (1.2, "successor\nhint", DEVICE),
        ],
    )
    _arrow(axes, (5.5, 2.75), (5.5, 2.1))
    axes.text(
        0.1,
        0.35,
        "a miss reads one line, a hit two; a prefix follows the successor hints, one line a block",
        fontsize=9,
    )
