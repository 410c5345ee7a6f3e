"""`SelfTest`: a short check of a table on this device against a dict, for doctors and benchmarks."""

from typing import Any

import numpy as np

from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.errors import InvariantError
from kvgpu.rules.hits import decide
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan
from kvgpu.rules.plan_words import FULL, MAMBA, SLIDING_WINDOW

PLANS = (
    PrefixPlan((HitQuery(HitRule(FULL, 16, 16), (0,)),)),
    PrefixPlan((HitQuery(HitRule(FULL, 16, 32, True), (0,)),)),
    PrefixPlan(
        (
            HitQuery(HitRule(FULL, 32, 32), (0,), 2),
            HitQuery(HitRule(SLIDING_WINDOW, 16, 32, True, 3), (1, 2)),
            HitQuery(HitRule(MAMBA, 32, 32), (3,), 2),
        )
    ),
)


def expect(what: str, holds: bool) -> None:
    """Check that a condition holds.

    Raises:
        InvariantError: It does not.
    """
    if not holds:
        raise InvariantError(f"self-test failed: {what}")


class SelfTest:
    """Random flushes and lookups of one table, each compared with a dict.

    Args:
        engine: `triton` or `cuda`.
        key_bytes: 16 or 32.
        num_blocks: Size of the table.
        load_factor: At most 0.9; the fuller the table, the farther its entries lie from their buckets.
        seed: Of the random keys and batches.
        device: Torch device; None for the current one.
        num_requests: Requests of one lookup of prefixes: in Triton's interpreter each takes 0.1 s or more.

    Raises:
        DeviceError, MissingPackageError: The engine cannot run here.
    """

    def __init__(
        self,
        engine: str = "triton",
        key_bytes: int = 32,
        num_blocks: int = 2_000,
        load_factor: float = 0.8,
        seed: int = 0,
        device: Any = None,
        num_requests: int = 12,
    ) -> None:
        self.rng = np.random.default_rng(seed)
        self.num_requests = num_requests
        self.table = BlockHashTable(num_blocks, key_bytes, device=device, load_factor=load_factor, engine=engine)
        self.keys = self.rng.integers(-(2**63), 2**63 - 1, (3 * num_blocks, key_bytes // 8))
        # Every hash occurs in four groups.
        self.keys = np.repeat(self.keys[: -(-len(self.keys) // 4)], 4, 0)[: len(self.keys)]
        self.groups = (np.arange(3 * num_blocks) % 4).astype(np.int32)
        self.first: dict[int, int] = {}

    def run(self, flushes: int = 6) -> None:
        """Flush, look up and check a few times, then look up prefixes.

        Raises:
            InvariantError: The table gave a wrong answer; the message says where.
        """
        for _ in range(flushes):
            self.flush()
            self.look_up()
            self.table.check()
        for plan in PLANS:
            self.longest_prefixes(plan)
        self.table.clear()
        expect("a cleared table is empty", self.table.size() == 0)

    def flush(self) -> None:
        """Erase, replace and enter keys in one batch; blocks that leave come back under other keys."""
        rng, num_keys = self.rng, len(self.keys)
        changed = rng.permutation(num_keys)[: num_keys // 2].tolist()
        touched = set(changed)
        untouched = {key: block for key, block in self.first.items() if key not in touched}
        used = set(untouched.values())
        idle = rng.permutation([b for b in range(self.table.num_blocks) if b not in used]).tolist()
        new = [idle.pop() if idle and rng.random() < 0.7 else -1 for _ in changed]
        old = [self.first.get(key, -1) for key in changed]
        self.first = untouched | {k: b for k, b in zip(changed, new, strict=True) if b >= 0}
        size = self.table.update(
            self.keys[changed], np.array(new, np.int32), self.groups[changed], old=np.array(old, np.int32)
        )
        expect(f"{len(self.first)} keys are in the table, it says {size}", size == len(self.first))

    def look_up(self) -> None:
        """Compare the block of every key with the dict."""
        expected = np.array([self.first.get(key, -1) for key in range(len(self.keys))])
        found = self.table.find(self.keys, self.groups).cpu().numpy()
        wrong = np.flatnonzero(found != expected)
        expect(f"{len(wrong)} of {len(found)} keys lead to other blocks", not len(wrong))

    def longest_prefixes(self, plan: PrefixPlan) -> None:
        """Look up requests of many lengths, and compare the hits with the rules in plain Python."""
        rng = self.rng
        ids = dict(zip(map(bytes, self._tagged(range(len(self.keys)))), range(len(self.keys)), strict=True))
        lengths = rng.choice([0, 1, 5, 33, 200], self.num_requests)
        chosen = rng.choice(list(self.first), int(lengths.sum()))
        chosen = np.where(rng.random(len(chosen)) < 0.97, chosen, rng.integers(len(self.keys)))
        keys = self.keys[chosen]
        offsets = np.concatenate([[0], np.cumsum(lengths)])
        limits = np.maximum(0, lengths * 16 - rng.integers(-20, 40, len(lengths)))
        out = self.table.longest_prefix(keys, offsets, plan, max_lengths=limits, null_id=0)
        tokens = out.num_tokens.cpu().numpy()
        for r, length in enumerate(lengths.tolist()):
            begin = int(offsets[r])

            def hit(query: int, _: int, place: int, begin: int = begin) -> bool:
                key = keys[begin + place].tobytes()
                return all(ids.get(key + bytes([group])) in self.first for group in plan.queries[query].groups)

            expected, *_ = decide(plan, hit, length, int(limits[r]))
            expect(
                f"the prefix of a request of {length} hashes is {expected} tokens, not {tokens[r]}",
                expected == tokens[r],
            )

    def _tagged(self, numbers: Any) -> list[bytes]:
        return [self.keys[i].tobytes() + bytes([self.groups[i]]) for i in numbers]
