"""The index that chooses for each lookup: the GPU, if there is one, for long lookups, otherwise the host."""

import logging
from time import perf_counter

import numpy as np

from kvgpu.blocks.state import BlockState
from kvgpu.environment import crossover_blocks
from kvgpu.errors import DeviceError, MissingPackageError
from kvgpu.hashing.hash_arena import HashArena
from kvgpu.index.base import BatchHits, Keys, Memo, PrefixHits
from kvgpu.index.device.index import DeviceIndex
from kvgpu.index.host.index import HostIndex
from kvgpu.index.journal import Journal
from kvgpu.index.request_spans import RequestSpans
from kvgpu.layout import KEY_WORDS
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL

logger = logging.getLogger(__name__)

SAMPLE_BLOCKS = 4096
"""Number of blocks in the lookup that is timed."""
ROUNDS = 5


def crossover_of(device_seconds: float, host_seconds_per_block: float) -> int:
    """Return the number of blocks whose lookup takes the host as long as the device takes for any number."""
    return max(1, round(device_seconds / host_seconds_per_block))


def measured_crossover(index: DeviceIndex) -> int:
    """Measure the number of blocks from which on a lookup on the device is faster than on the host.

    Fills `index`, which must be empty and have `SAMPLE_BLOCKS` blocks. Times a long lookup on the host, for its cost
    per block, and a short lookup on the device, for its fixed cost. Waits for the device.
    """
    rng = np.random.default_rng(0)
    keys = rng.integers(-(2**63), 2**63 - 1, (SAMPLE_BLOCKS, KEY_WORDS))
    index.state.adopt_width(8 * KEY_WORDS)
    index.insert(np.arange(SAMPLE_BLOCKS, dtype=np.int32), keys, 1, 0, 0)
    plan = PrefixPlan((HitQuery(HitRule(FULL, 1, 1), (0,)),))

    def seconds(match: type[HostIndex], count: int) -> float:
        times = []
        for _ in range(ROUNDS):
            start = perf_counter()
            num_tokens, *_ = match.match(index, plan, keys[:count], count)
            times.append(perf_counter() - start)
            assert num_tokens == count
        return sorted(times)[ROUNDS // 2]

    per_block = seconds(HostIndex, SAMPLE_BLOCKS) / SAMPLE_BLOCKS
    return crossover_of(seconds(DeviceIndex, 1), per_block)


class AutoIndex(DeviceIndex):
    """Uses `triton` at or above the crossover, and `host` below it; after a failure, always `host`.

    Attributes:
        crossover: Number of blocks (times groups) from which on a lookup runs on the device, measured at
            construction unless `KVGPU_CROSSOVER_BLOCKS` sets it; None if no device is used.
        reason: Where the value of `crossover` comes from, in words.
    """

    name = "auto"
    engine = "triton"

    def __init__(self, state: BlockState, journal: Journal | None = None) -> None:
        self.crossover: int | None = None
        try:
            super().__init__(state, journal)
        except (DeviceError, MissingPackageError) as error:
            self.reason = str(error)
            return
        if not self._is_worth_asking():
            self.reason = "Triton's interpreter is no faster than the host"
            return
        self.crossover = crossover_blocks()
        self.reason = "KVGPU_CROSSOVER_BLOCKS"
        if self.crossover is None:
            self._measure()

    def _is_worth_asking(self) -> bool:
        """Return whether the device is a GPU, not Triton's interpreter."""
        return bool(self.device.type == "cuda")

    def _measure(self) -> None:
        sample = _Sample(BlockState(SAMPLE_BLOCKS))
        try:
            # Every failure, even a missing compiler, arrives here as a DeviceError.
            self.crossover = measured_crossover(sample)
            self.reason = f"measured on {self.device}"
        except DeviceError as error:
            self.reason = str(error)

    def match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        if self._asks_device(len(keys) * len(plan.groups)):
            try:
                return super().match(plan, keys, max_length)
            except DeviceError as error:
                self._give_up(error)
        return HostIndex.match(self, plan, keys, max_length)

    def spans_for(self, count: int) -> RequestSpans:
        if self.answers and not self._capture.is_active:
            try:
                return super().spans_for(count)
            except DeviceError as error:
                self._give_up(error)
        return RequestSpans(count)

    def match_batch(
        self, plan: PrefixPlan, arena: HashArena, spans: RequestSpans, memo: Memo | None = None
    ) -> BatchHits:
        if self._asks_device(int((spans.ends - spans.begins).sum()) * len(plan.groups)):
            try:
                return super().match_batch(plan, arena, spans, memo)
            except DeviceError as error:
                self._give_up(error)
        return HostIndex.match_batch(self, plan, arena, spans, memo)

    @property
    def answers(self) -> bool:
        return self.crossover is not None

    def _asks_device(self, num_blocks: int) -> bool:
        """Return whether a lookup of this size runs on the device.

        During the capture of a CUDA graph it runs on the host, because it could not wait for the device.
        """
        return self.crossover is not None and num_blocks >= self.crossover and not self._capture.is_active

    def _give_up(self, error: DeviceError) -> None:
        logger.warning("From now on lookups are answered by the host: %s", error)
        self.crossover, self.reason = None, str(error)

    def _table_violations(self) -> list[str]:
        return HostIndex._table_violations(self) if self.crossover is None else super()._table_violations()


class _Sample(DeviceIndex):
    name = "sample"
    engine = "triton"
