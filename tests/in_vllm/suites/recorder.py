"""`Recorder`: whose code a test runs, kvgpu's or that of vLLM's manager."""

import sys
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

MANAGER_OF_VLLM = tuple(
    f"v1/core/{name}.py"
    for name in ("kv_cache_manager", "kv_cache_coordinator", "single_type_kv_cache_manager", "block_pool")
)
"""Files of vLLM for which kvgpu stands."""
NOT_MANAGING = ("register_all_kvcache_specs",)
"""What is in these files beside the manager."""
PARTS_OF_VLLM = ("v1/core/kv_cache_utils.py",)
"""Files of vLLM for whose classes kvgpu stands; their functions, which plan memory, are also called on kvgpu."""


class Recorder:
    """Notes the names of classes and functions whose code runs between `start` and `stop`.

    Args:
        ours: Folder of kvgpu's package.
        theirs: Folder of vLLM's package.

    Attributes:
        kvgpu, vllm: What ran, sorted: kvgpu's, and that of vLLM's manager.

    Calls of compiled code are not seen, but nothing calls that from outside of kvgpu.
    """

    def __init__(self, ours: Path, theirs: Path) -> None:
        self._ours = f"{ours}/"
        self._all = tuple(str(theirs / name) for name in MANAGER_OF_VLLM)
        self._classes = tuple(str(theirs / name) for name in PARTS_OF_VLLM)
        self._seen: dict[int, Any] = {}
        self._before: Any = None

    def start(self) -> None:
        """Forget what was noted, and begin."""
        self._seen = {}
        self._before = sys.getprofile()
        sys.setprofile(self._note)

    def stop(self) -> None:
        """End; a profiler that was there before goes on."""
        sys.setprofile(self._before)

    def __enter__(self) -> "Recorder":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _note(self, frame: FrameType, event: str, argument: Any) -> None:
        # Code is kept alive by being kept, so that its address names it.
        code = frame.f_code
        if event == "call" and id(code) not in self._seen:
            self._seen[id(code)] = code

    @property
    def kvgpu(self) -> list[str]:
        return sorted({self._name(code) for code in self._seen.values() if code.co_filename.startswith(self._ours)})

    @property
    def vllm(self) -> list[str]:
        return sorted(
            {
                self._name(code)
                for code in self._seen.values()
                if (code.co_filename in self._all and code.co_qualname not in NOT_MANAGING)
                or (code.co_filename in self._classes and self._is_method(code))
            }
        )

    @staticmethod
    def _is_method(code: Any) -> bool:
        _, _, rest = code.co_qualname.partition(".")
        return bool(rest) and not rest.startswith("<locals>")

    @staticmethod
    def _name(code: Any) -> str:
        """Module and outermost class or function."""
        return f"{Path(code.co_filename).stem}.{code.co_qualname.split('.')[0]}"
