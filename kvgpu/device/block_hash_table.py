"""`BlockHashTable`: the block-hash table in device memory, for the manager and for anybody else."""

from typing import TYPE_CHECKING, Any

from kvgpu import layout
from kvgpu.device.table_changes import TableChanges
from kvgpu.device.tensors import allocating, as_vector, on_stream
from kvgpu.errors import InvariantError
from kvgpu.integers import as_integer
from kvgpu.rules import plan_words
from kvgpu.rules.plan import HitQuery, HitRule, PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers

MOST_REQUESTS = 2**31 - 1
MOST_KEYS = 2**63 - 1
ONE_GROUP = PrefixPlan((HitQuery(HitRule(plan_words.FULL, 1, 1), (0,)),))
"""The plan of full attention in group 0, where a token is a block: hits count blocks."""


class BlockHashTable(TableChanges):
    """Exact map from (block hash, cache group) to the first block with that hash, on a device.

    An entry is a block: its hash and group lie in the record of its id, so an id is in the table at
    most once, and a table for `num_blocks` blocks never fills up or grows. Every operation comes in
    two forms: ``op_async`` only starts kernels on a stream, allocates only what has no `out=`, can be
    captured in a CUDA graph (after one call outside, which compiles), and leaves bad values to be
    reported later; ``op`` waits for the result and reports them. Operations on one stream are ordered;
    between streams the caller orders them, and no lookup may run beside an update.

    Args:
        num_blocks: Blocks of the pool; ids are below this.
        key_bytes: Bytes of a block hash, 16 or 32.
        device: Torch device; None for the current GPU (the CPU under TRITON_INTERPRET=1).
        load_factor: Fraction of the slots that `num_blocks` keys fill, above 0 and at most 0.9.
        seed: Of the slot hash; None for a random one, so that nobody can aim at one bucket.
        engine: `triton` or `cuda`. Both use the same bytes.

    Attributes:
        view: `TableView`: its tensors and sizes, for kernels of your own.

    Raises:
        ConfigError: Sizes out of range, or an unknown engine.
        DeviceError, MissingPackageError: The device or the engine cannot be used.

    Memory: 64 bytes per 7 * load_factor blocks, and a record of 32 or 64 bytes per block. Construction is
    O(num_blocks) and waits until the table is zeroed.
    """

    # Looking up

    def find_async(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """First block under each key.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8], on the device.
            groups: int32 [n], or one number for all.
            out: int32 [n] to write to.
            stream: As in `update_async`.

        Returns:
            int32 [n]: ids, -1 where there is none.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes or devices that do not fit, or `out` shares memory
                with what is read.

        Expected O(n) work: a hit reads one bucket and one record, a miss one bucket, at low load. Does not
        synchronise.
        """
        int32 = self._torch.int32
        with on_stream(stream, self.device):
            words = self._keys(keys)
            read = {"keys": words, "groups": self._groups(groups, len(words))}
            if out is None:
                out = self._torch.empty(len(words), dtype=int32, device=self.device)
            ids = self._written("out", out, len(words), int32, read)
            self._engine.launch_find(self.view, words, read["groups"], ids)
        return out

    def find(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`find_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        self._waits(stream)
        out = self.find_async(keys, groups, out=out, stream=stream)
        self.size(stream=stream)
        return out

    def contains_async(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """Whether there is a block under each key, bool [n]; `out` bool [n]. See `find_async`.

        Expected O(n) work, with n ids allocated in between; does not synchronise.
        """
        with on_stream(stream, self.device):
            words = self._keys(keys)
            target = None
            if out is not None:
                target = self._written("out", out, len(words), self._torch.bool, {})
            ids = self.find_async(words, groups)
            if target is None:
                return ids >= 0
            self._torch.ge(ids, 0, out=target)
        return out

    def contains(self, keys: Any, groups: Any = 0, *, out: Any = None, stream: Any = None) -> Any:
        """`contains_async`, then wait and report what is pending, as `size` does. Expected O(n) work."""
        self._waits(stream)
        out = self.contains_async(keys, groups, out=out, stream=stream)
        self.size(stream=stream)
        return out

    def prefix_buffers(
        self, num_requests: int, num_keys: int, plan: PrefixPlan = ONE_GROUP, with_ids: bool = True
    ) -> "PrefixBuffers":
        """Uninitialised buffers for `longest_prefix`, to be used again and again.

        Also brings the plan to the device, and waits for that if the table has not had it yet: a capture in a
        CUDA graph needs that done before.

        Args:
            num_requests: Requests of a batch.
            num_keys: Keys of all of them.
            plan: As in `longest_prefix_async`.
            with_ids: Whether block ids are wanted, too.

        Returns:
            On the device of the table; see `PrefixBuffers` for shapes and dtypes.

        Raises:
            ArgumentError, ArgumentTypeError: A number below 0 or no integer, no plan, or a plan that the table has
                not had, in a capture.
            DeviceError: There is not so much memory.

        O(groups) beside the allocations: 4 bytes a key and group, twice that with ids.
        """
        from kvgpu.kernels.longest_prefix import PrefixBuffers

        torch = self._torch

        def empty(*shape: int, dtype: Any = torch.int32) -> Any:
            return torch.empty(shape, dtype=dtype, device=self.device)

        num_requests = as_integer("num_requests", num_requests, 0, MOST_REQUESTS)
        num_keys = as_integer("num_keys", num_keys, 0, MOST_KEYS)
        self._plan(plan)
        lines, queries = len(plan.groups), len(plan.queries)
        with allocating(f"buffers of {num_requests} requests and {num_keys} keys"):
            return PrefixBuffers(
                num_tokens=empty(num_requests, dtype=torch.int64),
                firsts=empty(num_requests, queries),
                lengths=empty(num_requests, queries),
                ids=empty(lines, num_keys) if with_ids else None,
                hits=empty(lines, num_keys),
            )

    def longest_prefix_async(
        self,
        keys: Any,
        offsets: Any,
        plan: PrefixPlan = ONE_GROUP,
        *,
        longest: int,
        max_lengths: Any = None,
        null_id: int = 0,
        out: "PrefixBuffers | None" = None,
        stream: Any = None,
    ) -> "PrefixBuffers":
        """Longest cached prefix of every request over all cache groups of a plan.

        Args:
            keys: uint8 [n, key_bytes] or int64 [n, key_bytes / 8]: hashes of all requests, in order.
            offsets: int64 [requests + 1]: keys offsets[r] to offsets[r + 1] belong to request r. Or a
                pair of int64 [requests]: first key, and key after the last.
            plan: Rules and groups; by default the leading run in group 0, in blocks.
            longest: Most keys of any request; what a longer one has beyond is not looked at.
            max_lengths: int64 [requests], longest hit allowed in tokens, below 0 as 0; None for no limit.
            null_id: What stands for a block that is not needed.
            out: From `prefix_buffers`.
            stream: As in `update_async`.

        Returns:
            `out`; see `PrefixBuffers` for shapes.

        Raises:
            ArgumentError, ArgumentTypeError: Shapes, dtypes, devices or numbers that do not fit, too many keys for
                one launch, or `out` shares memory with what is read.

        Two launches; O(n * groups) lookups, all independent. Does not synchronise, but for a plan that the
        table has not had yet.
        """
        from kvgpu.kernels.longest_prefix import launch_decide

        torch = self._torch
        longest = as_integer("longest", longest, 0, MOST_KEYS)
        null_id = as_integer("null_id", null_id, -(2**31), 2**31 - 1)
        with on_stream(stream, self.device):
            words = self._keys(keys)
            begins, ends = self._spans(offsets)
            longest = min(longest, len(words))
            if max_lengths is None:
                max_lengths = torch.full_like(begins, layout.MAX_TOKENS)
            limits = as_vector("max_lengths", max_lengths, len(begins), torch.int64, self.device)
            plan_words = self._plan(plan)
            if out is None:
                out = self.prefix_buffers(len(begins), len(words), plan)
            read = {"keys": words, "offsets": begins, "ends": ends, "max_lengths": limits}
            buffers = self._check_buffers(out, len(begins), len(words), plan, read)
            self._engine.launch_probe(
                self.view, plan_words, words, begins, ends, buffers.hits, longest, len(plan.queries)
            )
            launch_decide(self.view, plan_words, begins, ends, limits, buffers, longest, null_id)
        return out

    def longest_prefix(
        self,
        keys: Any,
        offsets: Any,
        plan: PrefixPlan = ONE_GROUP,
        *,
        max_lengths: Any = None,
        null_id: int = 0,
        out: "PrefixBuffers | None" = None,
        stream: Any = None,
    ) -> "PrefixBuffers":
        """`longest_prefix_async`, then wait. O(n * groups) lookups.

        Raises:
            ArgumentError: Offsets that decrease or leave the keys; their requests have no result.
        """
        self._waits(stream)
        with on_stream(stream, self.device):
            begins, ends = self._spans(offsets)
            longest = max(0, int((ends - begins).max())) if len(begins) else 0
        out = self.longest_prefix_async(
            keys,
            (begins, ends),
            plan,
            longest=longest,
            max_lengths=max_lengths,
            null_id=null_id,
            out=out,
            stream=stream,
        )
        self.size(stream=stream)
        return out

    # Looking at the whole

    def items_async(self, *, stream: Any = None) -> Any:
        """Which blocks are entries: bool [num_blocks] on the device; keys and groups lie in `view.records`.

        O(num_blocks); does not synchronise.
        """
        torch = self._torch
        with on_stream(stream, self.device):
            slots = self.view.words[:, : layout.SLOTS_PER_BUCKET].reshape(-1)
            entered = torch.zeros(self.num_blocks + 1, dtype=torch.bool, device=self.device)
            entered[slots & layout.LOW_32] = True
        return entered[1:]

    def items(self, *, stream: Any = None) -> tuple[Any, Any, Any]:
        """(keys uint8 [n, key_bytes], groups int32 [n], ids int32 [n]), by id, on the device. Waits,
        and raises as `size` does. O(num_blocks)."""
        torch = self._torch
        self.size(stream=stream)
        entered = self.items_async(stream=stream)
        with on_stream(stream, self.device):
            ids = entered.nonzero().flatten()
            records = self.view.records[ids]
            words = self.view.key_words
            keys = records[:, :words].contiguous().view(torch.uint8)
            return keys, records[:, words].to(torch.int32), ids.to(torch.int32)

    def check(self, *, stream: Any = None) -> None:
        """Look at every entry: reachable, no key twice, no block twice, all counts right.

        Raises:
            InvariantError: Something does not hold; the message lists all that was found.

        Waits. O(num_blocks).
        """
        from kvgpu.kernels.invariants import VIOLATION_WORDS, launch_entries, violations_in_words

        torch = self._torch
        size = self.size(stream=stream)
        with on_stream(stream, self.device):
            overflow = torch.zeros_like(self.view.words[:, 0])
            uses = torch.zeros(self.num_blocks, dtype=torch.int32, device=self.device)
            counts = torch.zeros(VIOLATION_WORDS, dtype=torch.int64, device=self.device)
            launch_entries(self.view, overflow, uses, counts)
            miscounted = (overflow != self.view.words[:, layout.OVERFLOW_WORD]).sum()
            found = violations_in_words(counts.tolist(), size, int(miscounted), int((uses > 1).sum()))
        if found:
            raise InvariantError("; ".join(found))
