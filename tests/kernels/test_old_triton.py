"""What the oldest Triton on a card cannot compile is in no kernel: Triton 3.6 takes no plain string as a default."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted(path for top in ("kvgpu/kernels", "bench/on_gpu") for path in (ROOT / top).rglob("*.py"))
DECORATORS = {"jit", "kernel"}


def named(decorator: ast.expr) -> str:
    """The last word of what a decorator calls."""
    called = decorator.func if isinstance(decorator, ast.Call) else decorator
    return called.attr if isinstance(called, ast.Attribute) else getattr(called, "id", "")


def string_defaults(source: str) -> list[str]:
    """Functions for Triton in which a plain string is the default of an argument."""
    return [
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef)
        and DECORATORS & {named(decorator) for decorator in function.decorator_list}
        and any(isinstance(d, ast.Constant) and isinstance(d.value, str) for d in function.args.defaults)
    ]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_no_function_for_triton_has_a_string_as_default(path):
    assert string_defaults(path.read_text()) == []


def test_such_a_default_would_be_found():
    assert string_defaults('@triton.jit\ndef load(a, HINT: tl.constexpr = ""):\n    pass\n') == ["load"]
