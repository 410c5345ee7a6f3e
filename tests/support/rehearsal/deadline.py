"""Blocks and a tool for a rehearsal in which the deadline passes while one of them runs."""

from on_gpu.blocks import GOAL_PREFIXES, HASHES, Step, sizes
from support.rehearsal.faults import Program, fault

__all__ = ["STEPS", "sizes"]

STEPS = [
    Step([GOAL_PREFIXES[0], fault("hangs"), HASHES[0]], [Program("hangs, too", "import time; time.sleep(1000)", 1000)]),
    Step(tools=[Program("comes too late", "pass")]),
]
