"""`SnapshotCalls`: what a manager knows at its end, for one that begins with the same blocks."""

import os
import stat
from pathlib import Path
from typing import Any

from kvgpu.compiled.trusted_files import read_trusted, write_whole
from kvgpu.console.output_file import place_of
from kvgpu.errors import ArgumentTypeError, ConfigError, SnapshotError
from kvgpu.exclusive import exclusive_part
from kvgpu.hashing.functions import HashFunction
from kvgpu.integers import shown
from kvgpu.interface.cache_calls import CacheCalls

FilePath = str | os.PathLike[str]


class SnapshotCalls(CacheCalls):
    """The part of `KVCacheManager` that writes and reads snapshots."""

    def save(self, path: FilePath, *, hash_fn: HashFunction | None = None, label: str = "") -> None:
        """Write which blocks are cached under which keys, and in which order free blocks would be evicted.

        For a restart that the blocks survive. Nothing is changed. Blocks in use are saved as if all requests were freed
        now, in the order in which they got their first blocks, and then what callers of the pool hold, by id. Blocks
        are cached before a step computes them, so save between steps, when all of them are computed.

        Args:
            path: The file. It appears whole or not at all, and only this user may read it.
            hash_fn: What hashed the blocks; None for the function that `init_none_hash` was called with.
            label: What else the contents of blocks depend on, such as the model and its weights.

        Raises:
            NoneHashError: There is no `NONE_HASH` yet.
            ArgumentTypeError: An argument has the wrong type.
            ConfigError: No regular file can have this name.
            BlockStateError: Blocks are neither held nor free.
            OSError: The file cannot be written; an older one is unchanged.

        O(blocks of the pool).
        """
        from kvgpu.snapshot.archive import packed

        place = _checked_place(path)
        write_whole(str(place), packed(self._written(*_checked(hash_fn, label))))

    def load(self, path: FilePath, *, hash_fn: HashFunction | None = None, label: str = "") -> int:
        """Cache what a snapshot says is cached, in a manager that has not been used; return how many blocks are cached.

        From then on hits, blocks and evictions are those of the manager that was saved. The file decides which block is
        found under which key: nobody else may write it. No event is queued, since a snapshot holds no tokens.

        Args:
            path: The file.
            hash_fn, label: As in `save`.

        Raises:
            SnapshotError: The file is no snapshot, is damaged, or is of another configuration, hash function, key, seed
                or label.
            BlockStateError: The manager holds or caches blocks.
            NoneHashError, ArgumentTypeError, ConfigError: As in `save`.
            OSError: The file cannot be read, or others may write it. None of these changes anything.

        O(blocks of the pool log blocks of the pool).
        """
        from kvgpu.snapshot.archive import unpacked
        from kvgpu.snapshot.contents import most_bytes

        place, given = _checked_place(path), _checked(hash_fn, label)
        if os.stat(place).st_size > most_bytes(self.coordinator):
            raise SnapshotError(f"{shown(str(path))} is longer than a snapshot of this manager can be")
        return self._loaded(unpacked(read_trusted(str(place))), *given)

    @exclusive_part("save")
    def _written(self, hash_fn: HashFunction | None, label: str) -> Any:
        from kvgpu.snapshot.contents import identity, written

        return written(self.coordinator, identity(self.coordinator, hash_fn, label), self._time)

    @exclusive_part("load")
    def _loaded(self, arrays: Any, hash_fn: HashFunction | None, label: str) -> int:
        from kvgpu.snapshot.contents import checked, identity

        return checked(arrays, self.coordinator, identity(self.coordinator, hash_fn, label), self._time)()

    @property
    def _time(self) -> int:
        """The time in ns by the clock of hints, 0 without."""
        return 0 if self.hints is None else self.hints.now()


def _checked(hash_fn: Any, label: Any) -> tuple[Any, str]:
    if not isinstance(label, str):
        raise ArgumentTypeError(f"label: a text is expected, got {shown(label)}")
    return hash_fn, label


def _checked_place(path: Any) -> Path:
    """Return where a file is, without links."""
    if not isinstance(path, str | os.PathLike):
        raise ArgumentTypeError(f"path: the name of a file is expected, got {shown(path)}")
    try:
        place = place_of(Path(path))
    except TypeError as error:  # a path of bytes
        raise ArgumentTypeError(f"path: {error}") from None
    if place.exists() and not stat.S_ISREG(place.stat().st_mode):
        raise ConfigError(f"{shown(str(path))} is no regular file")
    return place
