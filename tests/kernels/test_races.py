"""The races of an update, searched with real threads: the CUDA twins' device functions as C++ under
ThreadSanitizer. What is compiled for a GPU, Triton kernels too, is searched in tests/ptx.
"""

import shutil
import subprocess
from pathlib import Path

import pytest

from kvgpu.kernels.cuda_engine import SOURCES, defines
from kvgpu.layout import OVERFLOW_FULL

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("g++")

pytestmark = pytest.mark.skipif(
    COMPILER is None, reason="g++ is not installed: the races of an update were not searched"
)

MUTATIONS = {
    "a word is stored without looking again": (
        "std::atomic_ref<word>(*at).compare_exchange_strong(expected, desired, "
        "std::memory_order_relaxed);\n    return expected;",
        "std::this_thread::yield();\n    "
        "std::atomic_ref<word>(*at).store(desired, std::memory_order_relaxed);\n    return expected;",
    ),
    "a number of keys is not added atomically": (
        "std::atomic_ref<word>(*at).fetch_add(amount, std::memory_order_relaxed);",
        "*at += amount;",
    ),
    "an erased entry is not uncounted": ("if (delta == 0) return;", "if (delta <= 0) return;"),
    "the way of an entry is not counted": (
        "for (word step = 0; step < passed; ++step) {\n        count_overflow",
        "for (word step = 0; step + 1 < passed; ++step) {\n        count_overflow",
    ),
    "a counter is changed once, whatever else changes in its header": ("if (seen == expected) return;", "return;"),
    "a counter that is full is changed": ("if ((seen & full) == full) return;", "(void)full;"),
    "an entry is counted in the counter of another": (
        "count_overflow(table.words + bucket * KVGPU_BUCKET_WORDS + KVGPU_OVERFLOW_WORD, counter_unit(h), delta)",
        "count_overflow(table.words + bucket * KVGPU_BUCKET_WORDS + KVGPU_OVERFLOW_WORD, counter_unit(h >> 1), delta)",
    ),
}


def compiled(directory, header, full=OVERFLOW_FULL):
    (directory / "table.cuh").write_text(header)
    program = directory / "stress"
    subprocess.run(
        [
            COMPILER,
            "-std=c++20",
            "-O1",
            "-g",
            "-Wall",
            "-Wextra",
            "-Werror",
            "-Wno-unknown-pragmas",
            "-fsanitize=thread",
            *defines(),
            "-UKVGPU_OVERFLOW_FULL",
            f"-DKVGPU_OVERFLOW_FULL={full}LL",
            f"-I{directory}",
            str(HERE / "stress.cpp"),
            "-o",
            str(program),
            "-pthread",
        ],
        check=True,
        capture_output=True,
    )
    return program


def stress(program, seed, rounds, threads, buckets):
    return subprocess.run(
        [program, *map(str, (seed, rounds, threads, buckets))], capture_output=True, text=True, timeout=300, check=False
    )


@pytest.fixture(scope="module", params=[OVERFLOW_FULL, 3], ids=["", "with counters that are soon full"])
def program(tmp_path_factory, request):
    return compiled(tmp_path_factory.mktemp("stress"), (SOURCES / "table.cuh").read_text(), request.param)


@pytest.mark.parametrize("buckets", [2, 3, 8, 40])
@pytest.mark.parametrize("seed", range(4))
def test_updates_by_threads_end_as_one_after_the_other(program, seed, buckets):
    done = stress(program, seed, 150, 4, buckets)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ok\n", "")


@pytest.mark.parametrize("mutation", MUTATIONS)
def test_the_search_finds_planted_faults(tmp_path, mutation):
    header, (right, wrong) = (SOURCES / "table.cuh").read_text(), MUTATIONS[mutation]
    assert header.count(right) == 1
    program = compiled(tmp_path, header.replace(right, wrong))
    assert any(stress(program, seed, 150, 8, 3).returncode != 0 for seed in range(6))
