"""Compiled functions: entry points, and what becomes part of them."""

import ast
import sys
from pathlib import Path

import numpy as np
import pytest
from numba.core.registry import cpu_target

from kvgpu.compiled import jit as _jit
from kvgpu.compiled.cache import code_folder
from kvgpu.compiled.cache_lines import make_lines


def add(a, b):
    return a + b


@_jit.inline
def first_two(values):
    return values[:2]


@_jit.leaf
def sum_of_first_two(values):
    return sum_in_parts(values)


@_jit.inline
def sum_in_parts(values):
    return first_two(values).sum()


@_jit.inline
def twice(a):
    return 2 * a


def four_times(a):
    return twice(twice(a))


def total_with_prefetch(values):
    result = 0
    for i in range(len(values)):
        _jit.prefetch(values, min(i + 8, len(values) - 1))
        result += values[i]
    return result


def mask_of(lines, row, value, shift):
    return _jit.lanes_equal(lines, row, value, shift)


def with_word_in_front(lines, row, word):
    _jit.push_word(lines, row, word)


@pytest.fixture(autouse=True)
def kept_in(tmp_path, monkeypatch):
    """Compiled code is kept in an empty folder."""
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "cache"))
    code_folder.cache_clear()
    yield
    code_folder.cache_clear()


def test_compiled_functions_call_inlined_ones():
    assert _jit.jit(four_times)(3) == 12


def test_a_helper_that_python_calls_runs_as_plain_python():
    assert twice("ab") == "abab"
    assert twice(2**70) == 2**71


def test_a_helper_is_compiled_once_for_all_constants():
    helper = _jit.inline(lambda a, b: a + b)
    assert _jit.jit(lambda a: helper(a, 1) + helper(a, 2) + helper(3, 4))(5) == 20
    assert len(helper.overloads) == 1


@pytest.mark.parametrize("kind", [_jit.inline, _jit.leaf])
def test_no_machine_code_is_made_of_a_helper(kind):
    helper = kind(lambda a: 3 * a)
    caller = _jit.jit(lambda a: helper(a))
    assert caller(2) == 6
    (lone,), (whole,) = helper.overloads.values(), caller.overloads.values()
    names = [compiled.fndesc.llvm_func_name for compiled in (lone, whole)]
    engine = cpu_target.target_context.codegen()._engine
    assert [bool(engine.is_symbol_defined(name)) for name in names] == [False, True]


def test_loading_ahead_changes_no_result():
    assert _jit.jit(total_with_prefetch)(np.arange(100)) == 4950


def test_the_python_function_behind_a_compiled_one_can_be_had():
    assert _jit.python_of(_jit.jit(add)) is add


def test_code_that_a_leaf_has_compiled_first_counts_references_all_the_same():
    """Numba passes options on to what it compiles on the way; code that does not count takes what it never gave."""
    from_leaf = _jit.jit(lambda values: sum_of_first_two(values))
    directly = _jit.jit(lambda values: first_two(values))
    values = np.arange(5)
    before = sys.getrefcount(values)
    assert from_leaf(values) == 1
    for _ in range(100):
        assert directly(values).tolist() == [0, 1]
    after = sys.getrefcount(values)
    assert after == before


@pytest.mark.parametrize("name", ["lookup_in", "bind_query"])
def test_a_leaf_that_returns_arrays_is_called_by_leaves_only(name):
    """Any other caller would give back references that nobody has counted."""
    package = Path(_jit.__file__).resolve().parents[1]
    users = {}
    for path in package.rglob("*.py"):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef) and name in {getattr(n, "id", None) for n in ast.walk(function)}:
                users[f"{path.name}:{function.name}"] = [ast.unparse(each) for each in function.decorator_list]
    assert users
    assert {user: marks for user, marks in users.items() if marks != ["leaf"]} == {}


@pytest.mark.parametrize("kind", [np.int32, np.int64])
@pytest.mark.parametrize("shift", [0, 7, 31])
def test_a_row_is_compared_at_once(kind, shift):
    lines = make_lines(3).view(kind)
    lines[1] = np.random.default_rng(shift).integers(-4, 4, lines.shape[1])
    unsigned = lines[1].view(np.uint32 if kind is np.int32 else np.uint64) >> shift
    mask = _jit.jit(mask_of)
    for value in unsigned.tolist():
        expected = sum(1 << i for i, word in enumerate(unsigned.tolist()) if word == value)
        assert mask(lines, 1, np.uint64(value).astype(np.int64), shift) == expected


@pytest.mark.parametrize("kind", [np.int32, np.int64])
def test_a_word_is_put_in_front_of_a_row(kind):
    lines = make_lines(3).view(kind)
    lines[:] = np.arange(lines.size).reshape(lines.shape)
    before = lines.copy()
    _jit.jit(with_word_in_front)(lines, 1, -5)
    assert lines[1].tolist() == [-5, *before[1, :-1].tolist()]
    assert (lines[[0, 2]] == before[[0, 2]]).all()
