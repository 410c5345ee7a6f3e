"""Arithmetic modulo 2**127 - 1 equals that of Python's integers."""

from itertools import product
from random import Random

import numba
import numpy as np
import pytest

from kvgpu.hashing.kvgpu128 import field
from kvgpu.hashing.kvgpu128.field import PRIME

WORD = 2**64
LOW = WORD - 1

ELEMENTS = sorted(
    {0, 1, 2, 3, PRIME, PRIME - 1, PRIME - 2, PRIME // 2, PRIME // 2 + 1}
    | {2**n + delta for n in (31, 32, 63, 64, 65, 95, 126) for delta in (-1, 0, 1)}
    | {(2**63 - 1) << 64, ((2**63 - 1) << 64) + 1, PRIME - (1 << 64), PRIME - (1 << 63)}
)
"""Edges: 0 and 1, both ends, where a limb begins, limbs of ones and of zeros. The prime itself is allowed."""


def words(value):
    return value >> 64, value & LOW


def compiled(operation, num_arguments):
    """Compile an operation on 2 or 4 words, which gives a pair of words, for arrays uint64 [n, 2 or 4]."""
    calls = {2: lambda a, i: operation(a[i, 0], a[i, 1]), 4: lambda a, i: operation(a[i, 0], a[i, 1], a[i, 2], a[i, 3])}
    call = numba.njit(calls[num_arguments])

    @numba.njit
    def run(arguments, out):
        for i in range(len(arguments)):
            out[i, 0], out[i, 1] = call(arguments, i)

    return run


def results(operation, arguments):
    """Results of an operation as integers; arguments are sequences of words."""
    arguments = np.array(arguments, np.uint64)
    out = np.empty((len(arguments), 2), np.uint64)
    compiled(operation, arguments.shape[1])(arguments, out)
    return [(high << 64) | low for high, low in out.tolist()]


def random_below(limit, count=2000, seed=1):
    """Random integers of all lengths."""
    rng = Random(seed)
    return [rng.randrange(limit) >> rng.choice([0, 0, 1, 60, 64, 100]) for _ in range(count)]


def pairs(edges, limit):
    """All pairs of edges, and random ones."""
    drawn = random_below(limit)
    return [*product(edges, repeat=2), *zip(drawn, reversed(drawn), strict=True)]


def assert_elements(found, expected):
    """Assert that results equal the expected numbers modulo the prime, and are at most the prime."""
    assert [value % PRIME for value in found] == [value % PRIME for value in expected]
    assert max(found) <= PRIME


@numba.njit
def high_products(arguments, out):
    for i in range(len(arguments)):
        out[i] = field.high_product(arguments[i, 0], arguments[i, 1])


@numba.njit
def added_products(arguments, out):
    for i in range(len(arguments)):
        a = arguments[i]
        out[i, 0], out[i, 1] = field.add_product(a[0], a[1], a[2], a[3])


def test_a_high_product_is_the_upper_half_of_the_product():
    given = pairs([0, 1, 2, 3, 2**32 - 1, 2**32, 2**63 - 1, 2**63, LOW - 1, LOW], WORD)
    out = np.empty(len(given), np.uint64)
    high_products(np.array(given, np.uint64), out)
    assert out.tolist() == [a * b >> 64 for a, b in given]


def test_a_product_is_added_with_all_carries():
    numbers = pairs([0, 1, 2**32, 2**59 - 1, 2**63, LOW], WORD)
    sums = [(2**128 - 1 - a * b, a, b) for a, b in numbers]
    sums += [(start, a, b) for a, b in numbers for start in (0, LOW, WORD) if start + a * b < 2**128]
    out = np.empty((len(sums), 2), np.uint64)
    added_products(np.array([(*words(s), a, b) for s, a, b in sums], np.uint64), out)
    assert [(high << 64) | low for high, low in out.tolist()] == [s + a * b for s, a, b in sums]


def test_folding_keeps_the_element():
    given = [*ELEMENTS, 2**127, 2**127 + 1, 2**127 + LOW, 2 * PRIME - 1, 2 * PRIME, WORD << 63]
    given += random_below(2**128 - 1)
    assert_elements(results(field.folded, [words(value) for value in given]), given)


def test_the_canonical_form_is_below_the_prime():
    given = [*ELEMENTS, *random_below(PRIME)]
    found = results(field.canonical, [words(value) for value in given])
    assert found == [value % PRIME for value in given]


@pytest.mark.parametrize(("operation", "expected"), [(field.plus, int.__add__), (field.times, int.__mul__)])
def test_sums_and_products_are_those_of_the_field(operation, expected):
    given = pairs(ELEMENTS, PRIME + 1)
    found = results(operation, [(*words(a), *words(b)) for a, b in given])
    assert_elements(found, [expected(a, b) for a, b in given])


def test_two_numbers_below_the_prime_reduce_to_one_element():
    given = pairs(ELEMENTS, 2**127)
    found = results(field.reduced, [(*words(low), *words(high)) for low, high in given])
    assert_elements(found, [low + (high << 64) for low, high in given])
