"""The search for races finds faults that are planted into kernels, each by a race or by a wrong answer."""

import pytest
from support.device.tables import why_not_cuda
from support.ptx.contention import contended_tables
from support.ptx.kernel import LaunchError
from support.ptx.planted import cuda_fault, triton_fault

from kvgpu.errors import KVGPUError
from kvgpu.kernels import update, validate

SEARCHED = 24
"""Tables, most of which find a fault each."""

RACE = (LaunchError, "races")
WRONG = (KVGPUError, None)

TRITON = {
    "buckets are read as if nobody changed them": (
        update.swap_words,
        [update.apply_changes, update.update_kernel],
        "load_bucket(words, bucket, todo, True)",
        "load_bucket(words, bucket, todo, False)",
        RACE,
    ),
    "a word is stored, not compared and swapped": (
        update.swap_words,
        [update.apply_changes, update.update_kernel],
        "seen = compare_and_swap(words + bucket * BUCKET + slot, expected, desired, ready)",
        "tl.store(words + bucket * BUCKET + slot, desired, mask=ready)\n        seen = expected",
        RACE,
    ),
    "a lost swap is not tried again": (
        update.swap_words,
        [update.apply_changes, update.update_kernel],
        "todo = (ready & (seen != expected)) | (further & (passed < num_buckets))",
        "todo = further & (passed < num_buckets)",
        WRONG,
    ),
    "a search stops where nothing with another counter has passed": (
        update.swap_words,
        [update.apply_changes, update.update_kernel],
        "counter = counter_unit(h) * COUNTER_FULL",
        "counter = counter_unit(h ^ (1 << 31)) * COUNTER_FULL",
        WRONG,
    ),
    "a header is stored, not compared and swapped": (
        update.count_overflow,
        [update.apply_changes, update.update_kernel],
        "seen = compare_and_swap(words + bucket * BUCKET + OVERFLOW, header, header + delta * unit, todo)",
        "seen = tl.load(words + bucket * BUCKET + OVERFLOW, mask=todo, other=0)\n"
        "        tl.store(words + bucket * BUCKET + OVERFLOW, seen + delta * unit, mask=todo)\n"
        "        seen = header",
        RACE,
    ),
    "keys are entered in their set without atomics": (
        validate.enter_key,
        [validate.validate_kernel],
        'seen = tl.atomic_cas(slots + slot, tl.where(todo, 0, NEVER), row + 1, sem="relaxed")',
        "seen = tl.load(slots + slot, mask=todo, other=0)\n"
        "        tl.store(slots + slot, row + 1, mask=todo & (seen == 0))",
        RACE,
    ),
}

CUDA = {
    "words are read as if nobody changed them": (
        "table.cuh",
        "return *reinterpret_cast<const volatile word*>(at);",
        "return *at;",
        RACE,
    ),
    "a word is stored, not compared and swapped": (
        "table.cuh",
        "return static_cast<word>(atomicCAS(reinterpret_cast<uword*>(at), static_cast<uword>(expected),\n"
        "                                       static_cast<uword>(desired)));",
        "*at = desired;\n    return expected;",
        RACE,
    ),
    "a count is not added atomically": (
        "table.cuh",
        "atomicAdd(reinterpret_cast<uword*>(at), static_cast<uword>(amount));",
        "*at += amount;",
        RACE,
    ),
    "an erased entry is not uncounted": ("table.cuh", "if (delta == 0) return;", "if (delta <= 0) return;", WRONG),
}


def search(engine, error, words):
    with pytest.raises(error, match=words):
        list(contended_tables(engine, SEARCHED))


@pytest.mark.parametrize("fault", TRITON)
def test_a_fault_of_a_triton_kernel_is_found(tmp_path, fault):
    *planted, found = TRITON[fault]
    with triton_fault(*planted, tmp_path):
        search("triton", *found)


@pytest.mark.parametrize("fault", CUDA)
def test_a_fault_of_a_cuda_kernel_is_found(tmp_path, fault):
    reason = why_not_cuda()
    if reason:
        pytest.skip(reason)
    *planted, found = CUDA[fault]
    with cuda_fault(*planted, tmp_path):
        search("cuda", *found)


def test_entering_before_all_have_left_is_found(monkeypatch):
    """In a table that is nearly full a flush takes two launches: what enters must find the room of what leaves."""
    monkeypatch.setattr(update, "phases_of", lambda table, count: (update.LEAVE | update.ENTER,))
    search("triton", *WRONG)


def test_nothing_is_found_where_nothing_is_planted():
    list(contended_tables("triton", SEARCHED))
