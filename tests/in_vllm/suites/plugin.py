"""A plug-in of pytest that runs vLLM's own tests on kvgpu's manager or scheduler, without a GPU.

`KVGPU_SUITE` says which: `plain` for vLLM alone, `manager`, `check` or `scheduler`. With `KVGPU_SUITE_NAMES=1` kvgpu's
names are laid over vLLM's (`laid_over`). What became of each test goes to the file `KVGPU_SUITE_CASES` (`cases`).
"""

import logging
import os
from collections import Counter
from pathlib import Path

import pytest
import vllm.platforms
from cases import Case, write_cases
from recorder import Recorder
from vllm.platforms.cpu import CpuPlatform

import kvgpu

vllm.platforms.current_platform = CpuPlatform()

MARKS = (
    "cpu_test",
    "skip_global_cleanup",
    "optional",
    "distributed",
    "core_model",
    "slow_test",
    "hybrid_model",
    "cpu_model",
    "skip_v1",
    "split",
)
MODE = os.environ["KVGPU_SUITE"]
BY_NAMES = os.environ.get("KVGPU_SUITE_NAMES") == "1"
recorder = Recorder(Path(kvgpu.__file__).parent, Path(vllm.__file__).parent)
cases: dict[str, Case] = {}

if MODE != "plain":
    os.environ["KVGPU_VLLM"] = "check" if MODE == "check" else "1"
    from kvgpu.vllm import capabilities
    from kvgpu.vllm import manager as manager_module
    from kvgpu.vllm.checked_manager import CheckedManager
    from kvgpu.vllm.plugin import register

    # What is still being built runs here before an engine gets it.
    capabilities.SERVED = (*capabilities.SERVED, capabilities.behaviour_of_vllm())
    register()
    made_checked: list[CheckedManager] = []
    make_checked = CheckedManager.__init__

    def note_checked(self, *args):
        make_checked(self, *args)
        made_checked.append(self)

    CheckedManager.__init__ = note_checked

if BY_NAMES:
    from laid_over import lay_over

    lay_over(capabilities.behaviour_of_vllm())

if MODE == "scheduler":
    import vllm.v1.core.sched.async_scheduler as async_scheduler_module
    import vllm.v1.core.sched.scheduler as scheduler_module

    from kvgpu.vllm import scheduler as own

    own.FEW_ROWS = 1  # the tests run few requests
    made: list[own.Scheduler] = []
    make = own.Scheduler.__init__

    def note(self, *args, **options):
        make(self, *args, **options)
        made.append(self)

    own.Scheduler.__init__ = note
    scheduler_module.Scheduler, async_scheduler_module.AsyncScheduler = own.Scheduler, own.AsyncScheduler


def pytest_configure(config):
    for mark in MARKS:
        config.addinivalue_line("markers", f"{mark}: of vLLM's tests")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    """Note whose code a test runs; its fixtures do not count."""
    case = cases[item.nodeid]
    before = Counter(manager_module.made) if MODE != "plain" else Counter()
    try:
        if not BY_NAMES:
            return (yield)
        with recorder:
            return (yield)
    finally:
        if BY_NAMES:
            case.kvgpu, case.vllm = recorder.kvgpu, recorder.vllm
        if MODE != "plain":
            case.managers = dict(manager_module.made - before)


def pytest_runtest_logstart(nodeid, location):
    cases[nodeid] = Case(nodeid)


def pytest_runtest_logreport(report):
    cases[report.nodeid].report(report)


def pytest_sessionfinish(session):
    if "KVGPU_SUITE_CASES" in os.environ:
        write_cases(Path(os.environ["KVGPU_SUITE_CASES"]), list(cases.values()))


def pytest_terminal_summary(terminalreporter):
    if MODE != "plain":
        terminalreporter.write_line(f"managers: {dict(manager_module.made)}")
    if MODE == "check":
        different = [each.difference for each in made_checked if each.difference]
        compared = sum(each.num_compared for each in made_checked)
        terminalreporter.write_line(f"{compared} answers were equal; differences: {different}")
    if MODE == "scheduler":
        rows, array_rows = (sum(getattr(each.served, name) for each in made) for name in ("rows", "array_rows"))
        terminalreporter.write_line(f"{len(made)} schedulers; arrays served {array_rows} of {rows} running requests")


@pytest.fixture
def dist_init():
    """vLLM's own starts processes; the scheduler needs none."""
    return


@pytest.fixture
def default_vllm_config():
    from vllm.config import DeviceConfig, VllmConfig, set_current_vllm_config

    with set_current_vllm_config(VllmConfig(device_config=DeviceConfig("cpu"))):
        yield


@pytest.fixture
def caplog_vllm(caplog, monkeypatch):
    """What vLLM logs; its logger passes nothing on to others."""
    monkeypatch.setattr(logging.getLogger("vllm"), "propagate", True)
    with caplog.at_level(logging.INFO):
        yield caplog
