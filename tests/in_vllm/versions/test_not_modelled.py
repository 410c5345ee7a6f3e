"""The list of cases that are not modelled names tests that vLLM 0.33.0 has."""

import ast
from pathlib import Path

import pytest

vllm = pytest.importorskip("vllm")

import listed

FOLDER = Path(vllm.__file__).resolve().parents[1] / "tests/v1/core"
SUITES = [name for name in listed.read() if name != "apart"]

pytestmark = pytest.mark.skipif(
    not vllm.__version__.startswith("0.33.0") or not FOLDER.is_dir(), reason="needs the sources of vLLM 0.33.0"
)


@pytest.mark.parametrize("suite", SUITES)
def test_every_listed_test_is_there(suite):
    tree = ast.parse((FOLDER / f"{suite}.py").read_text(encoding="utf-8"))
    there = {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
    assert {entry.function for entry in listed.listed(suite)} - there == set()
