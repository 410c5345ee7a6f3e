"""The indexes whose lookups run in GPU memory: `triton` and `cuda`.

The host's table decides which block is first under a key, and holds the chains of
duplicates. Its journal feeds a `BlockHashTable`, which answers every lookup and can be made again
from the host's table at any time.
"""

import os
from typing import TYPE_CHECKING, Any, ClassVar, cast

import numpy as np

from kvgpu.blocks.record import FIRST
from kvgpu.blocks.state import BlockState
from kvgpu.device.block_hash_table import BlockHashTable
from kvgpu.device.tensors import import_torch, resolve_device, stream_of, wait_for_stream
from kvgpu.errors import ArgumentError, DeviceError, InvariantError, KVGPUError
from kvgpu.hashing.hash_arena import HashArena, rows_of
from kvgpu.index.base import BatchHits, Keys, Memo, PrefixHits
from kvgpu.index.device.capture import GraphCapture
from kvgpu.index.device.comparison import differences
from kvgpu.index.device.prepared_lookup import PreparedLookups
from kvgpu.index.host.index import HostIndex
from kvgpu.index.journal import NO_LOG, Journal
from kvgpu.index.request_spans import RequestSpans
from kvgpu.rules.plan import PrefixPlan

if TYPE_CHECKING:
    from kvgpu.kernels.longest_prefix import PrefixBuffers


class DeviceIndex(HostIndex):
    """A host table and its copy on a device.

    Args:
        state: The records that hold the keys.
        journal: Must be None: the changes cannot have a second reader.

    Raises:
        DeviceError, MissingPackageError: The device cannot be used.

    A lookup flushes the journal, starts kernels and waits for their result.
    """

    engine: ClassVar[str]

    def __init__(self, state: BlockState, journal: Journal | None = None) -> None:
        super().__init__(state, Journal() if journal is None else journal)
        self._copy: BlockHashTable | None = None
        self._stale = True
        self._torch = import_torch()
        self.device = resolve_device()
        self._capture = GraphCapture(self.device)
        self._lookups = PreparedLookups(self.device)
        self._process = os.getpid()
        self._keys: Any = None
        """The copy of the arena that was used last."""
        self._current_stream = stream_of(self.device)
        self._stream: int | None = None

    @property
    def reads_in_place(self) -> bool:
        return not self.answers

    @property
    def nbytes(self) -> int:
        return super().nbytes + (0 if self._copy is None else self._copy.nbytes)

    def log_for(self, changes: int) -> np.ndarray:
        """Return the log for further changes.

        Changes are not recorded for a stale copy. A copy becomes stale if there are more changes than blocks.
        """
        assert self.journal is not None
        if not self._stale and len(self.journal) + changes <= self.state.num_blocks:
            return super().log_for(changes)
        self._stale = True
        self.journal.discard()
        return NO_LOG

    def clear(self) -> None:
        self._stale = True
        super().clear()

    def restore(self) -> None:
        super().restore()
        self._stale = True

    def match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        # Without a cached block there is no table on the device, whose kernels find no parts of blocks.
        if self.state.width is None or plan.ends_inside:
            return super().match(plan, keys, max_length)
        self._capture.refuse_waiting()
        try:
            return self._match(plan, keys, max_length)
        except BaseException as error:
            self._recover(error)
            raise

    def match_batch(
        self, plan: PrefixPlan, arena: HashArena, spans: RequestSpans, memo: Memo | None = None
    ) -> BatchHits:
        if self.state.width is None or plan.ends_inside or not spans.count:
            return super().match_batch(plan, arena, spans, memo)
        self._capture.refuse_waiting()
        try:
            table = self.flush()
            keys = self._resident(arena, table.view.key_words)
            return self._lookups.match(table, keys, plan, spans)
        except BaseException as error:
            self._recover(error)
            raise

    def spans_for(self, count: int) -> RequestSpans:
        return self._lookups.spans_for(count)

    def start_batch(
        self, plan: PrefixPlan, arena: HashArena, spans: RequestSpans, *, out: "PrefixBuffers | None" = None
    ) -> "PrefixBuffers":
        """Do what `match_batch` does, without waiting: flush, copy new hashes of the arena, start two kernels.

        Only the first call, which makes the table, waits until the table is zeroed. While a CUDA graph is captured,
        the spans go into memory that the buffers own, and everything else must already be on the device.

        Returns:
            Buffers on the device (see `PrefixBuffers`), with ids as long as the arena, or `out`.

        Raises:
            ArgumentError: A graph is being captured, and something has yet to be copied to the device. Nothing is
                changed.
        """
        try:
            table = self.flush()
            keys = self._resident(arena, table.view.key_words)
            numbers = np.stack([spans.begins, spans.ends, spans.max_lengths])
            self._capture.reserve(numbers.size)
            out = table.prefix_buffers(spans.count, len(arena), plan) if out is None else out
            capturing = self._capture.is_active
            source, moved = self._capture.moved(numbers) if capturing else (None, self._moved(numbers))
            table.longest_prefix_async(
                keys,
                (moved[0], moved[1]),
                plan,
                longest=int((spans.ends - spans.begins).max(initial=0)),
                max_lengths=moved[2],
                null_id=self.state.null_id,
                out=out,
            )
            if capturing:
                self._capture.hand_over(out.num_tokens, (source, moved, keys, table))
            return out
        except BaseException as error:
            self._recover(error)
            raise

    def _resident(self, arena: HashArena, words: int) -> Any:
        """Bring the device's copy of the arena up to date, and return it. O(1) if it is."""
        if arena.copy is self._keys and arena.is_copied:
            return self._keys
        fits = arena.copy is not None and arena.copy.shape == (len(arena), words)
        self._capture.refuse(not (fits and arena.is_copied), "hashes")
        # The copy is lost unless all pieces arrive, so it is given up first.
        copy, arena.copy = arena.copy, None
        pieces = arena.take_written()
        if not fits:
            copy = self._moved(arena.words[:, :words])
        elif pieces:
            places = rows_of(pieces)  # in one copy, which costs as much as that of each piece
            copy.index_copy_(0, self._moved(places), self._moved(arena.words[places, :words]))
        arena.copy = self._keys = copy
        return copy

    def _recover(self, error: BaseException) -> None:
        """After any failure of a lookup, have the copy made again; the caller raises `error` again.

        Calls that were refused have changed nothing, or have recorded that their change is incomplete.

        Raises:
            DeviceError: `error` is a failure of the device.
        """
        if isinstance(error, ArgumentError):
            return
        if isinstance(error, Exception):
            self._copy = None
        self._stale = True  # interrupted between any two steps, perhaps in a launch
        self._lookups.clear()
        # Compilers, launchers and drivers each raise their own exceptions.
        if isinstance(error, Exception) and not isinstance(error, KVGPUError):
            raise DeviceError(
                f"the device failed and its table is lost: {error}. The next lookup makes it again; "
                "after an error that kills the CUDA context, start a new process or use 'host'"
            ) from error

    def _match(self, plan: PrefixPlan, keys: Keys, max_length: int) -> PrefixHits:
        table = self.flush()
        words = table.view.key_words
        # Keys and offsets in one copy to the device, lengths and ids in one copy back.
        sent = np.empty(len(keys) * words + 3, np.int64)
        sent[:-3].reshape(len(keys), words)[:] = keys[:, :words]
        sent[-3:] = 0, len(keys), max_length
        arrived = self._moved(sent)
        out = table.longest_prefix_async(
            arrived[:-3].reshape(len(keys), words),
            (arrived[-3:-2], arrived[-2:-1]),
            plan,
            longest=len(keys),
            max_lengths=arrived[-1:],
            null_id=self.state.null_id,
        )
        header = [out.num_tokens.to(self._torch.int32), out.furthest.to(self._torch.int32), out.lengths.reshape(-1)]
        assert out.ids is not None
        found = self._torch.cat([*header, out.ids.reshape(-1)]).cpu().numpy()
        table.size()
        end = 2 + len(plan.queries)
        num_tokens, furthest, *lengths = found[:end].tolist()
        lines = found[end:].reshape(len(plan.groups), len(keys))
        ids = [line[:length] for part, length in zip(plan.lines, lengths, strict=True) for line in lines[part]]
        return num_tokens, ids, furthest

    def flush(self) -> BlockHashTable:
        """Bring the copy up to date; after a reset or a failure, copy everything. Does not wait.

        Raises:
            ArgumentError: A graph is being captured, and there are changes to copy. Nothing is changed.
        """
        assert self.journal is not None
        width = self.state.width
        assert width is not None
        self._follow()
        fits = self._copy is not None and self._copy.key_bytes == width
        if fits and not self._stale and not len(self.journal):
            return cast(BlockHashTable, self._copy)
        self._capture.refuse(True, "changed blocks")
        if not fits:
            self._stale, self._keys = True, None
            self._copy = BlockHashTable(self.state.num_rows, width, device=self.device, engine=self.engine)
        assert self._copy is not None
        table, words = self._copy, self._copy.view.key_words
        if self._stale:
            self.journal.discard()
            records = self.state.records[:-1]
            ids = np.flatnonzero(records["flags"] & FIRST).astype(np.int32)
            keys = records.view(np.int64).reshape(len(records), -1)[ids, :words]
            groups = self._moved(records["group"][ids])
            table.rebuild_async(self._moved(keys), self._moved(ids), groups, validate=False)
        else:
            self._stale = True  # until all of it is on its way
            changes = self.journal.take()
            table.update_async(
                self._moved(changes.keys[:, :words]),
                self._moved(changes.new),
                self._moved(changes.group),
                old=self._moved(changes.old),
                validate=False,
            )
        self._stale = False
        return table

    def _follow(self) -> None:
        """Make the current stream wait for the stream that the last call used.

        Raises:
            DeviceError: This process was forked from the one that made the index.
        """
        if os.getpid() != self._process:
            raise DeviceError("a device cannot be used in a forked process: start it with 'spawn', or use 'host'")
        stream = self._current_stream()
        if stream == self._stream or self._capture.is_active:
            return  # a caller that captures a graph has synchronised before
        if self._stream is not None:
            wait_for_stream(self._stream, self.device)
        self._stream = stream

    def _moved(self, array: np.ndarray) -> Any:
        """Copy an array to the device without waiting: torch keeps the pinned memory until it has been copied."""
        tensor = self._torch.from_numpy(np.ascontiguousarray(array))
        on_gpu = self.device.type == "cuda"
        return tensor.pin_memory().to(self.device, non_blocking=True) if on_gpu else tensor.clone()

    @property
    def answers(self) -> bool:
        """Whether the device answers any lookups."""
        return True

    def _table_violations(self) -> list[str]:
        """Describe violations in the host's table, and differences between the device's table and the host's."""
        found = super()._table_violations()
        if self.state.width is None:
            return found
        table = self.flush()
        try:
            table.check()
        except InvariantError as error:
            found.append(f"on the device: {error}")
        return found + differences(table, self.state)
