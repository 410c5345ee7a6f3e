"""The conformance runner: vLLM's module names lead to kvgpu's live modules."""

import contextlib
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from unittest import mock

import pytest
from names import VLLM_NAMES, LiveModule

from kvgpu.environment import DEFAULT_BACKEND
from kvgpu.hashing import functions as hashing

OTHER_BACKEND = "reference"
assert OTHER_BACKEND != DEFAULT_BACKEND
RUNNER = Path(__file__).resolve().parent / "run.py"

SUITE = """
import os
import pytest
import vllm.v1.core.kv_cache_manager as kv_cache_manager
import vllm.v1.core.kv_cache_utils as kv_cache_utils
import vllm.v1.core.block_pool as block_pool
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.kv_cache_utils import get_request_block_hasher, init_none_hash
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec, KVCacheConfig, KVCacheGroupSpec, SlidingWindowSpec,
)
from vllm.v1.request import Request

pytestmark = pytest.mark.cpu_test
HEADS = dict(num_kv_heads=1, head_size=1, dtype=None)


def make_manager(*specs, block_size=16):
    groups = [KVCacheGroupSpec([f"layer{i}"], spec) for i, spec in enumerate(specs)]
    return kv_cache_manager.KVCacheManager(
        KVCacheConfig(num_blocks=20, kv_cache_tensors=[], kv_cache_groups=groups),
        max_model_len=256, scheduler_block_size=block_size, hash_block_size=block_size,
    )


def test_none_hash_is_read_live():
    init_none_hash(sha256)
    first = kv_cache_utils.NONE_HASH
    init_none_hash(sha256)
    assert len(first) == 32 and kv_cache_utils.NONE_HASH != first


def test_none_hash_can_be_patched(monkeypatch):
    monkeypatch.setattr(kv_cache_utils, "NONE_HASH", b"n" * 32)
    expected = sha256((b"n" * 32, (1, 2), None))
    assert kv_cache_utils.hash_block_tokens(sha256, None, [1, 2]) == expected


def test_the_logger_of_the_manager_can_be_patched(monkeypatch):
    warnings = []

    class Logger:
        def warning(self, message, *args, **kwargs):
            warnings.append(message % args)

    monkeypatch.setattr(kv_cache_manager, "logger", Logger())
    manager = make_manager(FullAttentionSpec(block_size=16, **HEADS))
    manager.block_pool.enable_kv_cache_events = True
    manager.block_pool.kv_event_queue.append(block_pool.BlockStored(
        block_hashes=[1], parent_block_hash=None, token_ids=[1], block_size=16,
        lora_id=None, medium=None, lora_name=None, group_idx=7,
    ))
    manager.take_events()
    assert warnings == ["Group index `7` not in KV cache metadata"]


def test_a_variable_that_is_set_before_a_manager_is_made_counts(monkeypatch):
    monkeypatch.setenv("VLLM_PREFIX_CACHE_RETENTION_INTERVAL", "-16")
    with pytest.raises(ValueError):
        make_manager(SlidingWindowSpec(block_size=16, **HEADS, sliding_window=16))


def test_a_prompt_that_comes_again_hits():
    init_none_hash(sha256)
    manager = make_manager(FullAttentionSpec(block_size=16, **HEADS))
    for name, hits in (("first", 0), ("second", 32)):
        request = Request(
            request_id=name, prompt_token_ids=list(range(40)), pooling_params=None,
            sampling_params=SamplingParams(max_tokens=5),
            block_hasher=get_request_block_hasher(16, sha256),
        )
        blocks, found = manager.get_computed_blocks(request)
        assert found == hits
        manager.allocate_slots(request, 40 - found, found, blocks)


def test_the_backend_is_the_one_of_the_command_line():
    manager = make_manager(FullAttentionSpec(block_size=16, **HEADS))
    assert manager.block_pool.index.name == os.environ["EXPECTED_BACKEND"]


def test_classes_are_the_same_under_every_name():
    from vllm.distributed.kv_events import BlockStored
    assert BlockStored is block_pool.BlockStored
"""
CASES = [text.split("(")[0] for text in SUITE.split("\ndef ")[1:] if text.startswith("test_")]


def run(*arguments, **variables):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("KVGPU_B", "PYTEST"))}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # starts faster
    return subprocess.run(
        [sys.executable, str(RUNNER), *map(str, arguments)],
        env=environment | variables,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("suite") / "test_suite.py"
    path.write_text(SUITE)
    (path.parent / "conftest.py").write_text("raise RuntimeError('needs the real engine')\n")
    return path


@pytest.fixture(scope="module")
def outcome(suite):
    """The runner on the suite: the process, and what went wrong in each test."""
    report = suite.parent / "report.xml"
    done = run(
        suite,
        "--backend",
        OTHER_BACKEND,
        "--",
        "--strict-markers",
        f"--junitxml={report}",
        EXPECTED_BACKEND=OTHER_BACKEND,
    )
    assert report.exists(), done.stdout + done.stderr
    cases = {case.get("name"): [*case] for case in ET.parse(report).iter("testcase")}
    return done, cases


def test_a_suite_that_passes_is_status_0(outcome):
    assert outcome[0].returncode == 0


@pytest.mark.parametrize("case", CASES)
def test_inside_a_suite(outcome, case):
    problems = outcome[1][case]
    if [problem.tag for problem in problems] == ["skipped"]:
        pytest.skip(problems[0].get("message"))
    assert [problem.get("message") for problem in problems] == []


@pytest.fixture(scope="module")
def failing(tmp_path_factory):
    """The runner on a suite of two failing tests, told to run one of them."""
    path = tmp_path_factory.mktemp("failing") / "test_failing.py"
    path.write_text(
        "import vllm.v1.request\n"
        "def test_one(): assert vllm.v1.request.nothing\n"
        "def test_two(): assert vllm.v1.request.nothing\n"
    )
    return run(path, "--", "-k", "test_one")


def test_a_suite_that_fails_is_the_status_of_pytest(failing):
    assert failing.returncode == pytest.ExitCode.TESTS_FAILED


def test_arguments_after_the_dashes_go_to_pytest(failing):
    assert "1 failed, 1 deselected" in failing.stdout


def test_a_name_that_kvgpu_lacks_is_named_in_the_failure(failing):
    assert "kvgpu has no counterpart of vllm.v1.request.nothing" in failing.stdout


def test_an_unknown_backend_is_status_2_and_lists_the_known(suite):
    done = run(suite, "--backend", "nowhere")
    assert (done.returncode, done.stdout) == (2, "")
    assert "'nowhere'; known: auto, cuda, host, reference, triton" in done.stderr


@pytest.mark.parametrize("arguments", [["missing.py"], []])
def test_without_a_suite_it_is_status_2(arguments):
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert ("no such file: missing.py" if arguments else "required: suite") in done.stderr


# The names, without a suite


@pytest.fixture
def live(monkeypatch):
    monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(b"\1" * 32), raising=False)
    return LiveModule("vllm.hashing", ["kvgpu.errors", "kvgpu.hashing.functions"])


def test_a_name_is_read_from_the_module_that_has_it(live):
    assert live.NONE_HASH is hashing.NONE_HASH


def test_a_name_is_written_to_the_module_that_has_it(live):
    live.NONE_HASH = b"\2" * 32
    assert hashing.NONE_HASH == b"\2" * 32


def test_a_name_is_deleted_where_it_is(live):
    hashing.added_by_a_test = 1
    del live.added_by_a_test
    assert not hasattr(hashing, "added_by_a_test")


def test_a_name_without_counterpart_is_an_attribute_error(live):
    with pytest.raises(AttributeError, match=r"vllm\.hashing\.nothing"):
        live.nothing  # noqa: B018


def test_a_name_without_counterpart_can_be_added_and_removed(live):
    live.added = 1
    assert live.added == 1
    del live.added
    assert not hasattr(live, "added")


@pytest.fixture
def function():
    """A function of kvgpu that is put back whatever a test does to it."""
    yield hashing.get_hash_fn_by_name
    hashing.get_hash_fn_by_name = FUNCTION


FUNCTION = hashing.get_hash_fn_by_name


def stand_in(key):
    return 7


def test_what_monkeypatch_has_set_is_put_back_where_it_was(live, function):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "get_hash_fn_by_name", stand_in)
        assert hashing.get_hash_fn_by_name is stand_in
    assert hashing.get_hash_fn_by_name is function


def test_what_monkeypatch_has_set_twice_is_put_back(live, function):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "get_hash_fn_by_name", stand_in)
        patch.setattr(live, "get_hash_fn_by_name", len)
    assert hashing.get_hash_fn_by_name is function


def test_what_monkeypatch_has_deleted_is_put_back(live, function):
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(live, "get_hash_fn_by_name")
        assert not hasattr(hashing, "get_hash_fn_by_name")
    assert hashing.get_hash_fn_by_name is function


def test_what_monkeypatch_has_added_is_taken_away(live):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(live, "added_by_a_test", 1, raising=False)
        assert live.added_by_a_test == 1
    assert not hasattr(live, "added_by_a_test")


@pytest.mark.parametrize("fail", [False, True])
def test_what_a_mock_has_replaced_is_put_back(live, function, fail):
    with contextlib.suppress(RuntimeError), mock.patch.object(live, "get_hash_fn_by_name") as patched:
        assert hashing.get_hash_fn_by_name is patched
        if fail:
            raise RuntimeError
    assert hashing.get_hash_fn_by_name is function


def test_the_names_of_a_module_are_those_that_lead_somewhere(live):
    assert vars(live)["get_hash_fn_by_name"] is hashing.get_hash_fn_by_name
    assert vars(live)["__name__"] == "vllm.hashing"
    assert {name for name in vars(live) if vars(live)[name] is not getattr(live, name)} == set()


@pytest.mark.parametrize("name", VLLM_NAMES)
def test_every_target_of_a_name_exists(name):
    assert LiveModule(name, VLLM_NAMES[name]).__name__ == name
