"""The documentation says what is there: snippets, links, commands, options, variables."""

import argparse
import contextlib
import io
import re
from importlib import import_module
from pathlib import Path

import pytest

from kvgpu.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
GUIDES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md")]
PAGES = [*GUIDES, *sorted((ROOT / "docs").glob("*.md"))]


def found_in(pattern, pages=PAGES):
    """(page, match) for every match in every page, with readable ids."""
    return [
        pytest.param(page, match, id=f"{page.name} {match[:40].strip()}")
        for page in pages
        for match in dict.fromkeys(re.findall(pattern, page.read_text(), re.M | re.S))
    ]


SNIPPETS = [
    pytest.param(snippets, id=page.name)
    for page in PAGES
    if (snippets := re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S))
]
LINKS = found_in(r"\]\(([^)\s]+)\)")
TARGETS = found_in(r"(?:^ {4}|`)make ([a-z-]+)")
FILES = found_in(r"`((?:[\w.-]+/)+(?:[\w-]+\.(?:py|cu|cuh|md|csv|txt|yaml))?)`")
OPTIONS = found_in(r"(?<![\w-])(--[a-z][a-z-]*)", [ROOT / "README.md"])
READERS = ("environment.py", "hashing/functions.py")
"""Modules that read variables of the environment."""

VARIABLES = [
    pytest.param(name, id=name)
    for source in READERS
    for name in dict.fromkeys(
        re.findall(r"(?:environ\.get\(|environ\[|getenv\()\s*\"(\w+)\"", (ROOT / "kvgpu" / source).read_text())
    )
]


def printed_by(line):
    """What a line of a snippet says that it prints; None if it says nothing."""
    match = re.match(r"\s*print\(.*\)\s+# (.+)$", line)
    return match and match[1]


@pytest.mark.parametrize("snippets", SNIPPETS)
def test_the_snippets_of_a_page_run_in_order_and_print_what_their_comments_say(snippets):
    names = {"__name__": "snippet"}
    for snippet in snippets:
        output = io.StringIO()
        with contextlib.redirect_stdout(output):
            exec(compile(snippet, "snippet", "exec"), names)
        expected = [text for text in map(printed_by, snippet.splitlines()) if text is not None]
        assert output.getvalue().splitlines() == expected


@pytest.mark.parametrize(("page", "kernel"), found_in(r"^```py\n(.*?)^```"))
def test_a_kernel_that_a_page_shows_is_part_of_an_example(page, kernel):
    """Triton reads a kernel from its file, so that pages cannot define one."""
    assert any(kernel in example.read_text() for example in (ROOT / "examples").glob("*.py"))


def test_there_is_a_snippet_with_output_to_check():
    text = (ROOT / "README.md").read_text()
    assert sum(printed_by(line) is not None for line in text.splitlines()) >= 2


@pytest.mark.parametrize(("page", "link"), LINKS)
def test_a_relative_link_leads_to_a_file(page, link):
    if re.match(r"[a-z]+:", link):
        assert link.startswith("https://")
    else:
        assert (page.parent / link.split("#")[0]).exists()


@pytest.mark.parametrize(("page", "link"), [link for link in LINKS if re.match(r"[^:]*#", link.values[1])])
def test_a_link_to_a_section_leads_to_one(page, link):
    path, anchor = link.split("#")
    text = (page.parent / path if path else page).read_text()
    titles = re.findall(r"^#+ (.+)$", text, re.M)
    sections = {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}
    assert anchor in sections | set(re.findall(r'<a id="([\w-]+)"></a>', text))


@pytest.mark.parametrize(("page", "path"), FILES)
def test_a_file_or_folder_that_is_named_exists(page, path):
    """From the root of the repository, or in the package."""
    assert (ROOT / path).exists() or (ROOT / "kvgpu" / path).exists()


def test_every_page_is_linked_from_the_readme():
    text = (ROOT / "README.md").read_text()
    names = [page.relative_to(ROOT) for page in PAGES if page.name not in ("README.md", "CHANGELOG.md")]
    assert len(names) > 6
    assert [name for name in names if f"]({name.as_posix()})" not in text] == []


@pytest.mark.parametrize(("page", "target"), TARGETS)
def test_a_make_target_exists(page, target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.M)


def test_the_two_commands_are_documented():
    assert {"replay", "test"} <= {target.values[1] for target in TARGETS}


@pytest.mark.parametrize(("page", "option"), OPTIONS)
def test_an_option_exists(page, option):
    """Of any command, or of vLLM's."""
    known = {"--scheduler-cls"}
    for name in COMMANDS:
        parser = argparse.ArgumentParser()
        import_module(f"kvgpu.{name}.command").add_arguments(parser)
        known |= set(parser._option_string_actions)
    assert option in known


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name):
    assert f"    kvgpu {name} " in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", VARIABLES)
def test_a_variable_that_is_read_is_documented(name):
    text = (ROOT / "docs" / "env.md").read_text()
    assert re.search(rf"\b{name}\b", text)


def test_the_variables_were_found():
    assert {"KVGPU_BACKEND", "KVGPU_CACHE_DIR", "PYTHONHASHSEED"} <= {v.values[0] for v in VARIABLES}


def test_a_variable_that_is_documented_is_read():
    documented = re.findall(r"^\| `(\w+)`", (ROOT / "docs" / "env.md").read_text(), re.M)
    assert set(documented) <= {variable.values[0] for variable in VARIABLES}


@pytest.mark.parametrize(
    "path",
    [p for p in sorted((ROOT / "kvgpu").rglob("*.py")) if p not in [ROOT / "kvgpu" / r for r in READERS]],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_other_module_reads_variables(path):
    assert re.search(r"\benviron\b|\bgetenv\b", path.read_text()) is None


def test_every_backend_is_documented():
    from kvgpu.index.registry import BACKENDS

    text = (ROOT / "README.md").read_text()
    assert [name for name in BACKENDS if f"| `{name}`" not in text] == []


@pytest.mark.parametrize("module", re.findall(r"^\| (`.*?) \|", (ROOT / "docs" / "design.md").read_text(), re.M))
def test_the_modules_of_the_design_exist(module):
    for name in re.findall(r"`([\w/]+)`", module):
        path = ROOT / "kvgpu" / name.rstrip("/")
        assert path.is_dir() or path.with_suffix(".py").is_file()
