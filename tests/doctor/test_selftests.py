"""The self-tests of `kvgpu doctor`: wrong answers are found, named, and status 1."""

import logging

import numpy as np
import pytest
from support.device.packages import needs
from support.doctor_runs import doctor

from kvgpu.doctor import command
from kvgpu.doctor.backends import backend_test
from kvgpu.doctor.managers import ManagerSide, ManagerTest
from kvgpu.errors import DeviceError, InvariantError
from kvgpu.index.base import BatchHits
from kvgpu.index.device.auto import AutoIndex
from kvgpu.index.device.index import DeviceIndex
from kvgpu.index.host.index import HostIndex
from kvgpu.index.reference import ReferenceIndex

SMALL = {"num_blocks": 30, "num_requests": 12}


def nothing_found(index, plan, rows, max_length):
    return 0, [np.empty(0, np.int32) for _ in plan.groups]


def nothing_found_at_once(index, plan, arena, begins, ends, max_lengths):
    hits = BatchHits.empty(len(begins), len(plan.queries))
    hits.num_tokens[:] = hits.lengths[:] = 0
    return hits


CLASSES = {"reference": ReferenceIndex, "host": HostIndex, "auto": AutoIndex}
by_class = pytest.mark.parametrize("name", CLASSES)


@by_class
@pytest.mark.parametrize(("method", "wrong"), [("match", nothing_found), ("match_batch", nothing_found_at_once)])
def test_a_backend_with_wrong_lookups_is_named_and_status_1(monkeypatch, name, method, wrong):
    monkeypatch.setattr(CLASSES[name], method, wrong)
    run = doctor("--backend", name)
    assert (run.status, run.report["problems"]) == (1, [f"{name} (self-test)"])
    assert run.verdict(name)["state"] == "failed"
    assert run.text.endswith(f"result: FAILED: {name} (self-test)\n")


def test_a_backend_that_forgets_nothing_fails(monkeypatch):
    monkeypatch.setattr(ReferenceIndex, "erase", lambda index, ids, forget=True: None)
    assert doctor("--backend", "reference").verdict("reference")["state"] == "failed"


def test_a_table_on_a_device_with_wrong_lookups_fails(monkeypatch):
    pytest.importorskip("triton")
    from kvgpu.device.block_hash_table import BlockHashTable

    real = BlockHashTable.find
    monkeypatch.setattr(BlockHashTable, "find", lambda *a, **options: real(*a, **options) + 1)
    run = doctor("--backend", "triton")
    assert (run.status, run.verdict("triton")["state"]) == (1, "failed")
    assert "keys lead to other blocks" in run.verdict("triton")["remark"]


@pytest.mark.parametrize(
    ("chains", "name"),
    [
        ("messages", "xxhash"),
        pytest.param("messages", "xxhash_cbor", marks=needs("cbor2")),
        pytest.param("kvgpu128", "kvgpu128", marks=needs("cbor2")),
    ],
)
def test_a_hash_function_that_differs_in_bulk_fails(monkeypatch, chains, name):
    from kvgpu.hashing.kvgpu128.function import Kvgpu128
    from kvgpu.hashing.serialised.chains import DigestChains

    owner = {"messages": DigestChains, "kvgpu128": Kvgpu128}[chains]
    real = owner.hashes
    monkeypatch.setattr(owner, "hashes", lambda self, blocks: real(self, blocks) ^ (blocks.total > 1))
    run = doctor("--backend", "host")
    assert f"{name} (self-test)" in run.report["problems"]
    assert run.status == 1


def test_a_hash_function_that_is_not_called_in_bulk_is_not_said_to_pass(monkeypatch):
    monkeypatch.setattr("kvgpu.hashing.capabilities.chains_of", lambda hash_fn: None)
    run = doctor("--backend", "host")
    assert {v["state"] for v in run.report["hashes"]} == {"not usable"}


def test_an_unexpected_error_is_a_failure_in_one_line(monkeypatch):
    def fail(test):
        raise RuntimeError("first\nsecond")

    monkeypatch.setattr(ManagerTest, "run", fail)
    run = doctor("--backend", "host")
    assert run.line("host").startswith("FAILED")
    assert run.line("host").endswith("RuntimeError: first second")
    assert "Traceback" not in run.text


def test_a_device_that_fails_during_its_test_is_no_missing_one(monkeypatch):
    def fail(name, interpreter):
        raise DeviceError("an illegal memory access")

    monkeypatch.setattr(command, "backend_test", fail)
    run = doctor("--backend", "host")
    assert (run.status, run.verdict("host")["state"]) == (1, "failed")


@pytest.mark.parametrize("size", [{}, SMALL], ids=["whole", "small"])
@pytest.mark.parametrize("kind", [0, 1], ids=["full", "hybrid"])
def test_the_self_test_of_a_manager_sees_hits_and_evictions(size, kind):
    test = ManagerTest("host", **size)
    tested, truth = test.pairs[kind]
    hits, real = [], tested.admit

    def admit(request):
        got = real(request)
        hits.append(got.hit_tokens)
        return got

    tested.admit = admit
    test.run()
    assert any(hits)
    assert truth.num_evictions > 0


@pytest.fixture
def gpu_for_auto(monkeypatch):
    """`auto` takes the interpreter for a GPU that is worth asking for very long lookups only."""
    pytest.importorskip("triton")
    monkeypatch.setenv("KVGPU_CROSSOVER_BLOCKS", "100000")
    monkeypatch.setattr(AutoIndex, "_is_worth_asking", lambda self: True)


def test_both_sides_of_auto_answer_in_its_self_test(gpu_for_auto, monkeypatch):
    asked = []
    for side in (DeviceIndex, HostIndex):
        real = side.match

        def match(index, *arguments, real=real, side=side):
            asked.append(side)
            return real(index, *arguments)

        monkeypatch.setattr(side, "match", match)
    test = ManagerTest("auto", **SMALL)
    test._serve(*test.pairs[0])
    assert {*asked} == {DeviceIndex, HostIndex}


def test_auto_that_gives_its_device_up_fails(gpu_for_auto, monkeypatch, caplog):
    def fail(*arguments):
        raise DeviceError("an illegal memory access")

    monkeypatch.setattr(DeviceIndex, "match", fail)
    with (
        caplog.at_level(logging.ERROR, "kvgpu"),
        pytest.raises(InvariantError, match="gave its device up: an illegal memory access"),
    ):
        ManagerTest("auto", **SMALL).run()


def test_auto_says_from_how_many_blocks_on_it_asks_the_gpu(gpu_for_auto, monkeypatch):
    monkeypatch.setattr(command, "backend_test", lambda name, interpreter: None)
    run = doctor("--backend", "auto")
    assert run.report["auto"] == {"crossover": 100_000, "reason": "KVGPU_CROSSOVER_BLOCKS"}
    assert "triton from 100,000 blocks on: KVGPU_CROSSOVER_BLOCKS" in run.text
    assert run.verdict("auto")["remark"] == "host and GPU"


def test_a_broken_manager_is_found_though_its_answers_are_right():
    side = ManagerSide("host", 20)
    side.manager.block_pool.state.free.uses[3]["ref_cnt"] += 1
    with pytest.raises(InvariantError):
        side.check()


def test_the_cuda_kernels_pass_theirs():
    device_tables = pytest.importorskip("support.device.tables")
    if reason := device_tables.why_not_cuda():
        pytest.skip(reason)
    backend_test("cuda", device_tables.DEVICE.type == "cpu")
