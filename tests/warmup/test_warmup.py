"""`kvgpu warmup` compiles every part into the cache of compiled code, and says what went wrong."""

import json
import sys
from types import SimpleNamespace

import pytest

from kvgpu.cli import main
from kvgpu.compiled.cache import code_folder
from kvgpu.compiled.shipped import LEVEL
from kvgpu.compiled.source_digest import source_digest
from kvgpu.errors import WarmupError
from kvgpu.hashing import functions as hashing
from kvgpu.warmup import command, processes
from kvgpu.warmup.parts import FOR_VLLM, PARTS
from kvgpu.warmup.processes import compile_parts, is_cold


@pytest.fixture
def interpreter(monkeypatch, tmp_path):
    """Puts a script in the place of the interpreter that compiles; it notes what it was told."""

    def put(body):
        script = tmp_path / "python"
        script.write_text(f'#!/bin/sh\necho "$*" >> {tmp_path}/told\n{body}\n')
        script.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(script))
        return tmp_path / "told"

    return put


class TestProcesses:
    def test_every_part_gets_a_process(self, interpreter):
        told = interpreter("exit 0")
        assert sorted(compile_parts(["calls", "hashes"], jobs=1)) == ["calls", "hashes"]
        assert told.read_text().splitlines() == ["-m kvgpu warmup --part calls", "-m kvgpu warmup --part hashes"]

    def test_a_part_that_fails_is_an_error_with_its_last_words(self, interpreter):
        interpreter("echo no room >&2; exit 3")
        with pytest.raises(WarmupError, match="compiling calls failed: no room"):
            list(compile_parts(["calls", "hashes"], jobs=1))

    def test_no_process_outlives_an_error(self, interpreter):
        interpreter('case "$*" in *calls) sleep 0.2; exit 1;; *) exec sleep 60;; esac')
        with pytest.raises(WarmupError):
            list(compile_parts(["calls", "hashes"], jobs=2))

    def test_code_that_was_compiled_is_there(self):
        code_folder.cache_clear()  # other tests look for it while the environment is another one
        assert list(compile_parts(["calls"])) == ["calls"]
        assert not is_cold()

    def test_code_that_came_with_kvgpu_is_enough(self, monkeypatch, tmp_path):
        monkeypatch.setattr(processes, "code_folder", lambda: SimpleNamespace(path=None))
        monkeypatch.setattr(processes, "shipped_folder", lambda: tmp_path)
        assert is_cold()
        (tmp_path / "kvgpu.allocation.single_call.allocate_one-1.py311.nbi").touch()
        assert not is_cold()


class TestCommand:
    @pytest.mark.parametrize("part", PARTS)
    def test_each_part_runs(self, part, monkeypatch):
        monkeypatch.setattr(hashing, "NONE_HASH", hashing.BlockHash(bytes(32)), raising=False)  # a part makes it anew
        assert main(["warmup", "--part", part]) == 0

    def test_it_says_when_which_part_was_done(self, interpreter, capsys):
        interpreter("exit 0")
        assert main(["warmup", "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["done_after_seconds"].keys() == PARTS.keys()

    def test_code_for_a_wheel_is_compiled_for_every_processor_of_the_level(self, interpreter, tmp_path, monkeypatch):
        monkeypatch.setattr(command, "has_level", lambda: True)
        place = f"$KVGPU_CACHE_DIR/numba-{source_digest()}"
        keeps = f'mkdir -p "{place}"; touch "{place}/a.nbc"'
        told = interpreter(f'echo "$NUMBA_CPU_NAME $KVGPU_CACHE_DIR" >> "$0.told"; {keeps}')
        assert main(["warmup", "--for-wheel", str(tmp_path / "code")]) == 0
        assert told.with_name("python.told").read_text().splitlines() == [f"{LEVEL} {tmp_path}/code"] * len(PARTS)

    def test_code_for_a_wheel_that_was_not_kept_is_an_error(self, interpreter, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(command, "has_level", lambda: True)
        interpreter("exit 0")
        assert main(["warmup", "--for-wheel", str(tmp_path / "code")]) == 2
        assert "nothing could be kept" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("spoil", "words"),
        [
            (lambda folder: (folder / "numba-0").mkdir(), "is not empty"),
            (lambda folder: folder.chmod(0o777), "others may"),
        ],
        ids=["code of other sources", "others may write"],
    )
    def test_code_for_a_wheel_goes_into_an_empty_folder_of_nobody_elses(
        self, interpreter, tmp_path, monkeypatch, capsys, spoil, words
    ):
        monkeypatch.setattr(command, "has_level", lambda: True)
        told = interpreter("exit 0")
        (tmp_path / "code").mkdir()
        spoil(tmp_path / "code")
        assert main(["warmup", "--for-wheel", str(tmp_path / "code")]) == 2
        assert words in capsys.readouterr().err
        assert not told.exists()

    def test_code_for_a_wheel_needs_a_processor_that_can_run_it(self, interpreter, tmp_path, monkeypatch, capsys):
        monkeypatch.setattr(command, "has_level", lambda: False)
        told = interpreter("exit 0")
        assert main(["warmup", "--for-wheel", str(tmp_path / "code")]) == 2
        assert LEVEL in capsys.readouterr().err
        assert not told.exists()

    def test_without_a_folder_nothing_is_compiled(self, monkeypatch, capsys):
        class Nowhere:
            path, problem = None, "read-only"

        monkeypatch.setattr(command, "code_folder", Nowhere)
        assert main(["warmup"]) == 2
        assert "compiled code cannot be kept: read-only" in capsys.readouterr().err

    def test_without_a_folder_code_that_came_with_kvgpu_is_loaded(self, interpreter, tmp_path, monkeypatch, capsys):
        interpreter("exit 0")
        monkeypatch.setattr(command, "code_folder", lambda: SimpleNamespace(path=None))
        monkeypatch.setattr(command, "shipped_folder", lambda: tmp_path)
        assert main(["warmup"]) == 0
        assert str(tmp_path) in capsys.readouterr().out

    def test_vllm_needs_no_batches(self):
        assert set(PARTS) - set(FOR_VLLM) == {"batches"}
