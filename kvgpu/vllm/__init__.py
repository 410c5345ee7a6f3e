"""kvgpu inside vLLM: a plug-in that serves vLLM's scheduler with kvgpu's manager and block hasher.

    VLLM_PLUGINS=kvgpu vllm serve MODEL     # or KVGPU_VLLM=1; KVGPU_VLLM=0 turns it off
    KVGPU_VLLM=check vllm serve MODEL       # vLLM's manager serves, kvgpu's is compared with it

    vllm serve MODEL --scheduler-cls kvgpu.vllm.Scheduler

`register` in `kvgpu.vllm.plugin` is the entry point. docs/vllm.md says how it works.
"""

from typing import Any


def __getattr__(name: str) -> Any:
    # Imported only where an engine names it: workers import this package as well.
    if name == "Scheduler":
        from kvgpu.vllm.scheduler import Scheduler

        return Scheduler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
