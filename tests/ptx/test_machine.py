"""How threads take turns, wait for each other and race, in kernels of a few instructions."""

import shutil

import numpy as np
import pytest
from support.ptx.kernel import Kernel, LaunchError, scheduled

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: PTX was not run")

HEAD = """
.version 8.0
.target sm_90
.address_size 64
"""


def kernel(body, before="", shared=""):
    """Each thread finds its number in %r1, its lane in %r2 and the address of an array in %rd1."""
    return Kernel(
        f"""{HEAD}{before}
.visible .entry runs(.param .u64 runs_param_0)
{{
.reg .pred %p<8>;
.reg .b32 %r<16>;
.reg .b64 %rd<16>;
{shared}
ld.param.u64 %rd1, [runs_param_0];
mov.u32 %r3, %ctaid.x;
mov.u32 %r4, %ntid.x;
mov.u32 %r2, %tid.x;
mad.lo.s32 %r1, %r3, %r4, %r2;
mul.wide.u32 %rd2, %r1, 4;
add.s64 %rd2, %rd1, %rd2;
{body}
ret;

}}
"""
    )


def run(body, blocks=1, threads=32, size=None, **options):
    """The array after one launch, int32."""
    array = np.zeros(size or blocks * threads, np.int32)
    made = kernel(body, **options)
    made.launch(made.packed([array.ctypes.data]), (blocks,), (threads,))
    return array.tolist()


ADD_ATOMICALLY = "atom.global.add.u32 %r5, [%rd1], 1;"
ADD_PLAINLY = """
ld.global.b32 %r5, [%rd1];
add.s32 %r5, %r5, 1;
st.global.b32 [%rd1], %r5;
"""


def test_threads_add_atomically():
    assert run(ADD_ATOMICALLY, blocks=5, threads=64)[0] == 5 * 64


@pytest.mark.parametrize(("blocks", "threads"), [(2, 1), (1, 64), (1, 2)])
def test_threads_that_add_plainly_race(blocks, threads):
    with pytest.raises(LaunchError, match="races"):
        run(ADD_PLAINLY, blocks, threads)


def test_updates_get_lost_where_threads_race():
    with scheduled(watches=False, pause_every=2, seed=1):
        assert run(ADD_PLAINLY, blocks=4)[0] < 4 * 32


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.b32 %r5, [%rd1];\nmov.b32 %r6, 7;\nst.global.b32 [%rd2], %r6;",
        "ld.volatile.global.b32 %r5, [%rd1];\nsetp.eq.u32 %p1, %r1, 40;\n@%p1 st.global.b32 [%rd1], %r1;",
        "ld.global.b32 %r5, [%rd1];\nsetp.eq.u32 %p1, %r1, 40;\n@%p1 atom.global.exch.b32 %r6, [%rd1], 3;",
        "st.global.b32 [%rd1], %r1;",
    ],
    ids=["plain read, plain write", "volatile read, plain write", "plain read, atomic", "two writes"],
)
def test_a_plain_access_beside_a_write_is_a_race(body):
    with pytest.raises(LaunchError, match="races"):
        run(body, blocks=2)


@pytest.mark.parametrize(
    "body",
    [
        "ld.global.b32 %r5, [%rd1];",
        "st.global.b32 [%rd2], %r1;\nld.global.b32 %r5, [%rd2];",
        "ld.volatile.global.b32 %r5, [%rd1];\natom.global.add.u32 %r5, [%rd1], 1;",
        "mov.b32 %r5, 9;\nst.global.b32 [%rd1], %r5;",
        "ld.global.b32 %r5, [%rd1];\nbar.warp.sync -1;\nsetp.eq.u32 %p1, %r1, 0;\n@%p1 st.global.b32 [%rd1+4], %r2;",
    ],
    ids=["reads", "places of their own", "volatile reads beside atomics", "one value", "an ordered write"],
)
def test_other_accesses_are_no_race(body):
    blocks = 1 if "warp" in body else 2
    run(body, blocks)


def test_a_barrier_orders_a_block_and_not_two():
    body = "st.global.b32 [%rd2], %r1;\nbar.sync 0;\nld.global.b32 %r5, [%rd1+{}];"
    run(body.format(4 * 60), blocks=1, threads=64)
    with pytest.raises(LaunchError, match="races"):
        run(body.format(4 * 70), blocks=2, threads=64)


SHARED = ".shared .align 4 .b8 words[256];"
TURNED = """
mov.b32 %r5, words;
shl.b32 %r6, %r2, 2;
add.s32 %r6, %r5, %r6;
st.shared.b32 [%r6], %r1;
BARRIER
mov.b32 %r7, 252;
sub.s32 %r7, %r7, %r6;
ld.shared.b32 %r8, [%r7];
st.global.b32 [%rd2], %r8;
"""


def test_a_block_exchanges_through_shared_memory_behind_a_barrier():
    found = run(TURNED.replace("BARRIER", "bar.sync 0;"), blocks=2, threads=64, shared=SHARED)
    assert found == [*range(63, -1, -1), *range(127, 63, -1)]


def test_a_warp_loads_matrices_from_shared_memory():
    """Row r of matrix m lies at 128 m + 16 r, and words are numbered: each lane gets the word of its number of each."""
    body = """
mov.b32 %r5, words;
shl.b32 %r6, %r2, 2;
add.s32 %r6, %r5, %r6;
st.shared.b32 [%r6], %r2;
add.s32 %r7, %r2, 32;
st.shared.b32 [%r6+128], %r7;
bar.sync 0;
shl.b32 %r8, %r2, 4;
and.b32 %r8, %r8, 255;
add.s32 %r8, %r5, %r8;
ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%r9, %r10}, [%r8];
shl.b32 %r10, %r10, 8;
or.b32 %r9, %r9, %r10;
st.global.b32 [%rd2], %r9;
"""
    assert run(body, shared=SHARED) == [(lane + 32) << 8 | lane for lane in range(32)]


def test_without_a_barrier_it_races():
    with pytest.raises(LaunchError, match="races"):
        run(TURNED.replace("BARRIER", ""), threads=64, shared=SHARED)


def test_an_access_outside_the_shared_memory_is_found():
    with pytest.raises(LaunchError, match="outside the shared memory"):
        run(TURNED.replace("BARRIER", "bar.sync 0;"), threads=96, shared=SHARED)


@pytest.mark.parametrize(
    ("mode", "distance", "clamp", "source"),
    [
        ("bfly", 5, 31, lambda lane: lane ^ 5),
        ("up", 3, 0, lambda lane: lane - 3 if lane >= 3 else lane),
        ("down", 3, 31, lambda lane: lane + 3 if lane + 3 < 32 else lane),
        ("idx", 9, 31, lambda lane: 9),
        ("idx", 1, 0x1C1F, lambda lane: lane // 4 * 4 + 1),
    ],
)
def test_lanes_read_from_each_other(mode, distance, clamp, source):
    body = f"shfl.sync.{mode}.b32 %r5, %r1, {distance}, {clamp}, -1;\nst.global.b32 [%rd2], %r5;"
    assert run(body, blocks=2) == [32 * block + source(lane) for block in range(2) for lane in range(32)]


@pytest.mark.parametrize(
    ("instruction", "result"),
    [
        ("redux.sync.add.s32 %r5, %r2, -1;", sum(range(32))),
        ("redux.sync.max.s32 %r5, %r2, -1;", 31),
        ("vote.sync.ballot.b32 %r5, %p1, -1;", 0x1F),
        ("vote.sync.any.pred %p2, %p1, -1;\nselp.b32 %r5, 1, 0, %p2;", 1),
        ("vote.sync.all.pred %p2, !%p1, -1;\nselp.b32 %r5, 1, 0, %p2;", 0),
    ],
)
def test_a_warp_computes_together(instruction, result):
    body = f"setp.lt.u32 %p1, %r2, 5;\n{instruction}\nst.global.b32 [%rd2], %r5;"
    assert run(body) == [result] * 32


def test_lanes_go_their_own_ways():
    """Each lane goes round as often as its number says, and half of them meet in between."""
    body = """
mov.b32 %r5, 0;
$L__again:
setp.ge.u32 %p1, %r5, %r1;
@%p1 bra $L__done;
add.s32 %r5, %r5, 1;
bra.uni $L__again;
$L__done:
setp.lt.u32 %p2, %r1, 16;
@!%p2 bra $L__end;
redux.sync.add.s32 %r5, %r5, 65535;
$L__end:
st.global.b32 [%rd2], %r5;
"""
    assert run(body) == [sum(range(16))] * 16 + list(range(16, 32))


def test_threads_that_wait_for_each_other_are_found():
    body = "setp.lt.u32 %p1, %r1, 16;\n@%p1 bra $L__low;\nbar.warp.sync -1;\n$L__low:\nbar.sync 0;"
    with pytest.raises(LaunchError, match="wait for each other"):
        run(body)


def test_a_thread_that_goes_round_for_ever_is_found():
    with scheduled(max_steps=1000), pytest.raises(LaunchError, match="for ever"):
        run("$L__again:\nbra.uni $L__again;")


def test_a_thread_that_waits_for_another_lets_it_go_on():
    body = """
setp.eq.u32 %p1, %r1, 0;
@%p1 atom.global.exch.b32 %r5, [%rd1], 5;
$L__again:
ld.volatile.global.b32 %r5, [%rd1];
setp.eq.b32 %p2, %r5, 0;
@%p2 bra $L__again;
"""
    for pause_every in (0, 8):
        with scheduled(pause_every=pause_every):
            assert run(body, blocks=2)[0] == 5


TICKETS = "atom.global.add.u32 %r5, [%rd1], 1;\nadd.s64 %rd2, %rd2, 4;\nst.global.b32 [%rd2], %r5;"


def test_a_seed_decides_in_which_order_threads_go():
    def tickets(seed):
        with scheduled(seed=seed, pause_every=2):
            return run(TICKETS, blocks=2, size=65)

    assert tickets(1) == tickets(1) != tickets(2)
    assert sorted(tickets(2)[1:]) == list(range(64))


def test_functions_are_called():
    function = """
.func doubles(.param .b64 doubles_param_0)
{
.reg .b32 %r<4>;
.reg .b64 %rd<4>;
ld.param.u64 %rd1, [doubles_param_0];
ld.global.b32 %r1, [%rd1];
add.s32 %r1, %r1, %r1;
st.global.b32 [%rd1], %r1;
ret;

}
"""
    body = """
st.global.b32 [%rd2], %r1;
{
.param .b64 param0;
st.param.b64 [param0+0], %rd2;
call.uni
doubles,
(
param0
);
}
"""
    assert run(body, before=function) == [2 * i for i in range(32)]
