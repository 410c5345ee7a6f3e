"""Which of vLLM's own tests run for each version, in which modes, and how many of them pass."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

MODES = ("plain", "manager", "check", "scheduler")

CORE, CONNECTORS = "tests/v1/core", "tests/v1/kv_connector/unit"


@dataclass(frozen=True)
class Suite:
    """Files of tests, and what is expected of them.

    Attributes:
        files: Paths below the source tree.
        passed: Mode -> least number of tests that pass; in other modes the suite does not run.
        by_names: In the mode `manager` kvgpu's names are laid over vLLM's in all modules that these tests import from,
            since they make managers and pools themselves. Only what then ran on kvgpu, and not on vLLM's manager,
            counts.
        without: Tests that fail on vLLM alone, without a GPU.
        plugins: Further plug-ins of pytest.
    """

    files: tuple[str, ...]
    passed: Mapping[str, int]
    by_names: bool = False
    without: tuple[str, ...] = ()
    plugins: tuple[str, ...] = ()


def _core(*names: str) -> tuple[str, ...]:
    return tuple(f"{CORE}/test_{name}.py" for name in names)


def _connectors(passed: Mapping[str, int]) -> Suite:
    names = (
        "test_remote_prefill_lifecycle",
        "test_remote_decode_lifecycle",
        "test_invalid_blocks_correctness",
        "test_kv_load_failure_recovery",
        "test_cache_pollution_prevention",
        "test_error_propagation",
        "offloading_connector/test_scheduler",
    )
    return Suite(
        tuple(f"{CONNECTORS}/{name}.py" for name in names),
        passed,
        plugins=("tests.v1.kv_connector.unit.offloading_connector.utils",),
    )


def _all(passed: int) -> dict[str, int]:
    return dict.fromkeys(MODES, passed)


def _between(
    schedulers: tuple[int, int], asynchronous: tuple[int, int], prefix_caching: tuple[int, int]
) -> dict[str, Suite]:
    """Suites of a version between 0.23 and 0.33: in each the tests that pass on vLLM alone, and on kvgpu's manager."""

    def passed(numbers: tuple[int, int]) -> dict[str, int]:
        return dict(zip(("plain", "manager"), numbers, strict=True))

    return {
        "scheduler": Suite(_core("scheduler"), passed(schedulers)),
        "async scheduler": Suite(_core("async_scheduler"), passed(asynchronous)),
        "prefix caching": Suite(_core("prefix_caching"), passed(prefix_caching), by_names=True),
    }


SUITES: dict[str, dict[str, Suite]] = {
    "0.23.0": {
        "scheduler": Suite(_core("scheduler"), _all(102)),
        "async scheduler": Suite(_core("async_scheduler"), _all(9)),
        "connectors": _connectors(_all(81)),
        "prefix caching": Suite(_core("prefix_caching"), {"plain": 75, "manager": 75}, by_names=True),
    },
    "0.25.1": _between((123, 123), (10, 10), (81, 79)),
    "0.28.0": _between((147, 103), (16, 15), (89, 86)),
    "0.32.0": _between((208, 208), (19, 19), (173, 104)),
    "0.33.0": {
        "scheduler": Suite(
            _core("scheduler"),
            {"plain": 280, "manager": 280, "check": 280, "scheduler": 280},
            # Asynchronous scheduling with pipeline parallelism is only there for a model runner that needs Triton.
            without=(
                f"{CORE}/test_scheduler.py::test_async_scheduling_pp_allows_rescheduling_with_output_placeholders",
            ),
        ),
        "async scheduler": Suite(_core("async_scheduler"), {"plain": 19, "manager": 19, "check": 19, "scheduler": 19}),
        "priorities": Suite(_core("priority_preemption_bug"), {"plain": 1, "manager": 1, "scheduler": 1}),
        "frees in flight": Suite(_core("swa_inflight_window_free"), {"plain": 7, "manager": 7, "scheduler": 7}),
        # Two of these count calls of `allocate_slots`, which arrays do not make.
        "deferred frees": Suite(_core("deferred_block_free"), {"plain": 18, "manager": 17, "scheduler": 15}),
        "prefix replay": Suite(_core("prefix_replay"), {"plain": 15, "manager": 15, "scheduler": 15}),
        "connectors": _connectors({"plain": 483, "manager": 483, "scheduler": 483}),
        "prefix caching": Suite(_core("prefix_caching"), {"plain": 213, "manager": 146}, by_names=True),
        "groups": Suite(_core("single_type_kv_cache_manager"), {"plain": 49, "manager": 11}, by_names=True),
        "hits inside blocks": Suite(
            tuple(
                f"{CORE}/prefix_cache/test_{name}.py"
                for name in (
                    "partial_prefix_cache_hits",
                    "partial_prefix_cache_primitives",
                    "mamba_eagle_resume_checkpoint",
                )
            ),
            {"plain": 264, "manager": 238},
            by_names=True,
        ),
        "hashes and planning": Suite(_core("kv_cache_utils"), {"plain": 111, "manager": 52}, by_names=True),
    },
}
"""Version -> name -> suite."""


def version_of(source: Path) -> str:
    """Return the version of an unpacked source distribution. O(size of its metadata).

    Raises:
        ValueError: The folder is none.
    """
    for line in (source / "PKG-INFO").read_text(encoding="utf-8").splitlines():
        if line.startswith("Version: "):
            return line.removeprefix("Version: ").strip()
    raise ValueError(f"{source / 'PKG-INFO'} names no version")
