"""What instructions compute, against Python's integers."""

import shutil

import numpy as np
import pytest
from support.ptx.kernel import Kernel
from support.ptx.operands import UnknownInstruction

pytestmark = pytest.mark.skipif(shutil.which("g++") is None, reason="g++ is not installed: PTX was not run")

COUNT = 64
EDGES = [0, 1, 2, 31, 32, 63, 64, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**63, 2**64 - 1]


def signed(value, bits):
    value %= 1 << bits
    return value - (1 << bits) if value >> (bits - 1) else value


def unsigned(value, bits):
    return value % (1 << bits)


def truncated(a, b):
    """Quotient and remainder as in C."""
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return quotient, a - b * quotient


def permuted(a, b, selectors):
    both = (b << 32 | a).to_bytes(8, "little")
    chosen = [selectors >> (4 * i) & 15 for i in range(4)]
    picked = [both[c & 7] if c < 8 else 255 * (both[c & 7] >> 7) for c in chosen]
    return int.from_bytes(bytes(picked), "little")


# Instruction -> (bits of operands, signed, bits of the result, definition for two operands).
TWO = {
    "add.s64": (64, True, 64, lambda a, b: a + b),
    "sub.s32": (32, True, 32, lambda a, b: a - b),
    "mul.lo.s64": (64, True, 64, lambda a, b: a * b),
    "mul.lo.u32": (32, False, 32, lambda a, b: a * b),
    "mul.hi.u64": (64, False, 64, lambda a, b: a * b >> 64),
    "mul.hi.s32": (32, True, 32, lambda a, b: a * b >> 32),
    "mul.wide.s32": (32, True, 64, lambda a, b: a * b),
    "mul.wide.u32": (32, False, 64, lambda a, b: a * b),
    "and.b32": (32, False, 32, lambda a, b: a & b),
    "or.b64": (64, False, 64, lambda a, b: a | b),
    "xor.b64": (64, False, 64, lambda a, b: a ^ b),
    "min.s64": (64, True, 64, min),
    "max.u32": (32, False, 32, max),
    "div.s64": (64, True, 64, lambda a, b: truncated(a, b)[0] if b else -1),
    "rem.s32": (32, True, 32, lambda a, b: truncated(a, b)[1] if b else a),
    "rem.u32": (32, False, 32, lambda a, b: a % b if b else a),
}
SHIFTS = {
    "shl.b64": (64, False, lambda a, n: a << n if n < 64 else 0),
    "shl.b32": (32, False, lambda a, n: a << n if n < 32 else 0),
    "shr.u64": (64, False, lambda a, n: a >> min(n, 64)),
    "shr.s32": (32, True, lambda a, n: a >> min(n, 31)),
    "shr.s64": (64, True, lambda a, n: a >> min(n, 63)),
}
ONE = {
    "not.b64": (64, 64, lambda a: ~a),
    "neg.s32": (32, 32, lambda a: -a),
    "popc.b64": (64, 32, lambda a: a.bit_count()),
    "clz.b32": (32, 32, lambda a: 32 - a.bit_length()),
    "brev.b32": (32, 32, lambda a: int(f"{a:032b}"[::-1], 2)),
    "bfind.shiftamt.u32": (32, 32, lambda a: 32 - a.bit_length() if a else -1),
    "cvt.s64.s32": (32, 64, lambda a: signed(a, 32)),
    "cvt.u64.u32": (32, 64, lambda a: a),
    "cvt.u32.u64": (64, 32, lambda a: a),
}
COMPARISONS = {
    "setp.lt.s32": (32, True, lambda a, b: a < b),
    "setp.lt.u64": (64, False, lambda a, b: a < b),
    "setp.ge.s64": (64, True, lambda a, b: a >= b),
    "setp.ne.b32": (32, False, lambda a, b: a != b),
}
# Three operands of 32 bits.
THREE = {
    "prmt.b32": permuted,
    "shf.l.wrap.b32": lambda a, b, n: (b << 32 | a) << (n & 31) >> 32,
    "shf.r.wrap.b32": lambda a, b, n: (b << 32 | a) >> (n & 31),
    "mad.lo.s32": lambda a, b, c: a * b + c,
    "bfe.u32": lambda a, b, c: a >> (b & 255) & (1 << min(c & 255, 32)) - 1,
}


def lines_of(number):
    """Code for every instruction, each of which stores its result."""
    body = []

    def store(bits):
        body.append(f"st.global.b{bits} [%rd3+{8 * len(number)}], %{'rd' if bits == 64 else 'r'}9;")

    def operands(bits, count):
        return ", ".join(f"%{'rd' if bits == 64 else 'r'}{10 + i}" for i in range(count))

    for name, (bits, _, result, _) in TWO.items():
        body.append(f"{name} %{'rd' if result == 64 else 'r'}9, {operands(bits, 2)};")
        store(result)
        number.append(name)
    for name, (bits, _, _) in SHIFTS.items():
        body.append(f"{name} %{'rd' if bits == 64 else 'r'}9, {operands(bits, 1)}, %r12;")
        store(bits)
        number.append(name)
    for name, (bits, result, _) in ONE.items():
        body.append(f"{name} %{'rd' if result == 64 else 'r'}9, {operands(bits, 1)};")
        store(result)
        number.append(name)
    for name, (bits, _, _) in COMPARISONS.items():
        body.append(f"{name} %p1, {operands(bits, 2)};\nselp.b32 %r9, 1, 0, %p1;")
        store(32)
        number.append(name)
    for name in THREE:
        body.append(f"{name} %r9, {operands(32, 3)};")
        store(32)
        number.append(name)
    return "\n".join(body)


def kernel_of(body):
    return f"""
.version 8.0
.target sm_90
.address_size 64
.visible .entry computes(.param .u64 computes_param_0, .param .u64 computes_param_1)
.reqntid 32
{{
.reg .pred %p<8>;
.reg .b32 %r<16>;
.reg .b64 %rd<16>;
{body}
ret;

}}
"""


@pytest.fixture(scope="module")
def results():
    """Name -> results, with the operands: uint64 [COUNT, 3]."""
    names = []
    code = lines_of(names)
    width = 8 * len(names)
    body = f"""
ld.param.u64 %rd1, [computes_param_0];
ld.param.u64 %rd2, [computes_param_1];
mov.u32 %r1, %ctaid.x;
mov.u32 %r2, %tid.x;
mad.lo.s32 %r3, %r1, 32, %r2;
mul.wide.u32 %rd4, %r3, 24;
add.s64 %rd4, %rd1, %rd4;
mul.wide.u32 %rd3, %r3, {width};
add.s64 %rd3, %rd2, %rd3;
ld.global.v2.b64 {{%rd10, %rd11}}, [%rd4];
ld.global.b64 %rd12, [%rd4+16];
cvt.u32.u64 %r10, %rd10;
mov.b64 {{%r11, _}}, %rd11;
cvt.u32.u64 %r12, %rd12;
{code}
"""
    rng = np.random.default_rng(0)
    operands = rng.integers(0, 2**64, (COUNT, 3), dtype=np.uint64)
    edges = rng.random((COUNT, 3)) < 0.5
    operands[edges] = rng.choice(np.array(EDGES, np.uint64), int(edges.sum()))
    operands[:, 2] %= 70
    out = np.zeros((COUNT, len(names)), np.uint64)
    kernel = Kernel(kernel_of(body))
    kernel.launch(kernel.packed([operands.ctypes.data, out.ctypes.data]), (COUNT // 32,), (32,))
    return dict(zip(names, out.T.tolist(), strict=True)), operands.tolist()


def expected(definition, bits, is_signed, result_bits, operands):
    read = signed if is_signed else unsigned
    return [unsigned(definition(*(read(value, bits) for value in row)), result_bits) for row in operands]


@pytest.mark.parametrize("name", TWO)
def test_two_operands(results, name):
    found, operands = results
    bits, is_signed, result_bits, definition = TWO[name]
    assert found[name] == expected(definition, bits, is_signed, result_bits, [row[:2] for row in operands])


@pytest.mark.parametrize("name", SHIFTS)
def test_shifts(results, name):
    found, operands = results
    bits, is_signed, definition = SHIFTS[name]
    read = signed if is_signed else unsigned
    assert found[name] == [unsigned(definition(read(a, bits), n), bits) for a, _, n in operands]


@pytest.mark.parametrize("name", ONE)
def test_one_operand(results, name):
    found, operands = results
    bits, result_bits, definition = ONE[name]
    assert found[name] == expected(definition, bits, False, result_bits, [row[:1] for row in operands])


@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons(results, name):
    found, operands = results
    bits, is_signed, definition = COMPARISONS[name]
    assert found[name] == expected(definition, bits, is_signed, 32, [row[:2] for row in operands])


@pytest.mark.parametrize("name", THREE)
def test_three_operands(results, name):
    found, operands = results
    assert found[name] == expected(THREE[name], 32, False, 32, operands)


def test_an_instruction_that_is_not_known_is_named():
    with pytest.raises(UnknownInstruction, match=r"sin\.approx\.f32"):
        Kernel(kernel_of("sin.approx.f32 %r1, %r2;"))
