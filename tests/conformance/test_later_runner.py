"""The conformance runner on suites of 0.33: kvgpu's behaviour, stand-ins, and the list of what is not modelled."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

RUNNER = Path(__file__).resolve().parent / "run.py"
SUITE = """
import pytest
from vllm.sampling_params import SamplingParams
from vllm.utils.hashing import sha256
from vllm.v1.core.block_pool import BlockPool
from vllm.v1.core.kv_cache_manager import KVCacheManager, Request
from vllm.v1.core.kv_cache_utils import generate_block_hash_extra_keys, get_request_block_hasher, init_none_hash
from vllm.v1.hisparse.coordinator import get_hisparse_coordinator
from vllm.v1.kv_cache_interface import (
    FullAttentionSpec, KVCacheConfig, KVCacheGroupRole, KVCacheGroupSpec, RSWASpec,
)
from vllm.v1.request import RequestStatus

HEADS = dict(num_kv_heads=1, head_size=1, dtype=None)


def make_manager(*specs, **options):
    groups = [KVCacheGroupSpec([f"layer{i}"], spec) for i, spec in enumerate(specs)]
    return KVCacheManager(
        KVCacheConfig(num_blocks=20, kv_cache_tensors=[], kv_cache_groups=groups),
        max_model_len=256, scheduler_block_size=16, hash_block_size=16, **options,
    )


def test_a_lookup_says_the_junction():
    init_none_hash(sha256)
    hasher = get_request_block_hasher(16, sha256, 1)
    request = Request("r", list(range(40)), SamplingParams(), None, block_hasher=hasher)
    found = make_manager(FullAttentionSpec(block_size=16, **HEADS)).get_computed_blocks(request)
    assert found[1:] == (0, 0) and len(request.block_hashes) == 2


def test_a_pool_frees_as_later_versions_do():
    pool = BlockPool(num_gpu_blocks=4, enable_caching=True, hash_block_size=16)
    pool.free_blocks(pool.get_new_blocks(2))
    assert [block.block_id for block in pool.free_block_queue.get_all_free_blocks()] == [1, 2, 3]


def test_sparse_windows():
    RSWASpec(block_size=16)


@pytest.mark.parametrize("size", [16, 32])
def test_host_memory(size):
    KVCacheGroupSpec(["source"], FullAttentionSpec(block_size=size, **HEADS), role=KVCacheGroupRole.HISPARSE_SOURCE)


def test_what_a_test_may_expect_is_not_what_is_lacking():
    with pytest.raises(ValueError):
        get_hisparse_coordinator(None)
"""
LIST = """
[test_later."R-SWA"]
test_sparse_windows = 1
[test_later.HiSparse]
"test_host_memory[*]" = 2
test_what_a_test_may_expect_is_not_what_is_lacking = 1
"""
TABLE = """\
    2  passed on kvgpu
    0  passed, runs nothing of kvgpu
    1  not modelled: R-SWA
    3  not modelled: HiSparse
    0  skipped
    0  failed
"""


@pytest.fixture(scope="module")
def suite(tmp_path_factory):
    path = tmp_path_factory.mktemp("later") / "test_later.py"
    path.write_text(SUITE)
    return path


def run(suite, text, *options):
    file = suite.parent / "list.toml"
    file.write_text(text)
    words = [
        sys.executable,
        RUNNER,
        suite,
        "--behaviour",
        "0.33",
        "--backend",
        "host",
        "--not-modelled",
        file,
        *options,
    ]
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST")}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # starts faster
    return subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)


def test_a_run_that_is_as_listed_is_status_0(suite):
    done = run(suite, LIST)
    assert TABLE in done.stdout
    assert done.returncode == 0, done.stdout


def test_a_failure_that_is_not_listed_is_status_1_and_says_why(suite):
    done = run(suite, LIST.replace('[test_later."R-SWA"]\ntest_sparse_windows = 1\n', ""))
    assert done.returncode == 1
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("failed: ")]
    assert "::test_sparse_windows: " in line
    assert line.endswith("NotModelledError: kvgpu has no vllm.v1.kv_cache_interface.RSWASpec")


def test_a_listed_case_that_passes_is_status_1(suite):
    done = run(suite, LIST + "test_a_lookup_says_the_junction = 1\n")
    assert done.returncode == 1
    assert "the list is wrong: listed as HiSparse, and passed: " in done.stdout


def test_cases_that_are_left_out_are_not_missed(suite):
    assert run(suite, LIST, "--", "-k", "junction").returncode == 0


def test_a_suite_that_cannot_be_imported_is_an_error_that_says_why(suite):
    broken = suite.parent / "test_broken.py"
    broken.write_text("import vllm.v1.request\nvllm.v1.request.nothing()\n")
    done = run(broken, "")
    assert done.returncode == pytest.ExitCode.INTERRUPTED
    assert "NotModelledError: kvgpu has no vllm.v1.request.nothing" in done.stdout
