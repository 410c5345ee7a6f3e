"""`Restart`: a replay that begins with the snapshot of the one before, and leaves one to the next."""

import errno
import os
from pathlib import Path
from typing import Any

from kvgpu.console.output_file import place_of
from kvgpu.manager import KVCacheManager
from kvgpu.replay.result import ReplayResult

LABEL = "kvgpu replay"


class Restart:
    """The snapshot of a replay: read before it, if the file is there, and written after it.

    Args:
        path: The file.

    Raises:
        ConfigError: No file can have this name.
        OSError: The folder does not exist, or may not be written.

    Attributes:
        loaded_blocks: Blocks that were cached by the snapshot; None after a cold start.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._manager: KVCacheManager | None = None
        self.loaded_blocks: int | None = None
        folder = place_of(path).parent
        problem = errno.EACCES if folder.is_dir() else errno.ENOENT
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise OSError(problem, os.strerror(problem), str(path))

    def begin(self, manager: KVCacheManager) -> None:
        """Load the snapshot if there is one; raises what `KVCacheManager.load` raises. O(blocks log blocks)."""
        self._manager = manager
        if place_of(self._path).exists():
            self.loaded_blocks = manager.load(self._path, label=LABEL)

    def end(self) -> None:
        """Save what the manager knows now; raises what `KVCacheManager.save` raises. O(blocks)."""
        if self._manager is not None:
            self._manager.save(self._path, label=LABEL)

    def as_dict(self, cold: ReplayResult | None) -> dict[str, Any]:
        """Return for JSON what it was worth, with the result of the same replay after a cold start. O(1)."""
        return {"loaded_blocks": self.loaded_blocks, "cold_hit_rate": None if cold is None else cold.hit_rate}
