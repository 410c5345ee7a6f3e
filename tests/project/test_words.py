"""A word means one thing: private words of earlier days do not come back, and the glossary lists the others."""

import ast
import io
import re
import tokenize
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

REPLACED = {
    "ask": "arguments",
    "lent": "borrowed",
    "marks": "metadata",
    "mine": "the noun itself",
    "quiet": "covered",
    "way": "mode",
}
"""Identifiers, or parts of them, and what is said in their place."""

DEFINED = (
    "block",
    "record",
    "table",
    "bucket",
    "key",
    "slot hash",
    "group",
    "plan",
    "query",
    "line",
    "row",
    "led block",
)
"""Words that the glossary must explain."""

SOURCES = sorted(path for top in ("kvgpu", "kernels") for path in (ROOT / top).rglob("*.py"))


def identifiers(path):
    source = path.read_text()
    names = {token.string for token in tokenize.generate_tokens(io.StringIO(source).readline) if token.type == 1}
    return names | {node.value for node in ast.walk(ast.parse(source)) if is_field(node)}


def is_field(node):
    """Names of fields of records are strings."""
    return isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.isidentifier()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_no_private_word_names_anything(path):
    found = {name for name in identifiers(path) if set(name.lower().split("_")) & REPLACED.keys()}
    assert found == set()


def test_the_glossary_defines_the_words():
    text = (ROOT / "docs" / "design.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| ([^|]+) \|$", text[text.index("## Words") : text.index("## What flows")], re.M)
    told = " ".join(f"{word} {re.findall(r'[*]([^*]+)[*]', meaning)}" for word, meaning in rows)
    assert [word for word in DEFINED if word not in told] == []
