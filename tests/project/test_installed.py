"""What pip installs from a wheel and from an sdist, in an environment that does not know the checkout.

Two minutes; more where nothing was compiled yet. The wheel has compiled code in it; what the sdist gives shares that of
the checkout, since the sources are equal.
"""

import importlib
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
from support.device.packages import needs

import kvgpu
from kvgpu.compiled.shipped import LEVEL, has_level

pytestmark = needs("cbor2", "msgspec", "tqdm")

ROOT = Path(kvgpu.__file__).resolve().parent.parent
BUILT_FROM = ("kvgpu", "kernels", "bench", "tests")
BUILT_WITH = ("setup.py", "pyproject.toml", "MANIFEST.in", "README.md", "LICENSE")
NEEDED = ("numpy", "numba", "llvmlite", "xxhash", "cbor2", "msgspec", "tqdm", "setuptools")
"""Packages that the environments borrow from the tests' own, wherever these lie."""

PACKAGE_FILES = {
    str(Path("kvgpu", path.relative_to(ROOT / "kvgpu")))
    for folder in (ROOT / "kvgpu", ROOT / "kvgpu" / "kernels")
    for path in folder.rglob("*")
    if path.is_file() and "__pycache__" not in path.parts
}

COMPILE_KERNELS = """
import sys
from support.device import cuda_on_cpu
sys.modules["cupy"] = cuda_on_cpu.stand_in()
from kvgpu.kernels import cuda_engine
names = sorted(path.stem for path in cuda_engine.SOURCES.glob("*.cu"))
for name in names:
    cuda_engine._module(name)
print(*names)
"""


def run(*command, **options):
    done = subprocess.run([*map(str, command)], capture_output=True, text=True, check=False, **options)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def pip(*arguments, **options):
    quiet = ("--disable-pip-version-check", "--no-input", "--quiet")
    return run(sys.executable, "-m", "pip", *quiet, *arguments, **options)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A folder with a wheel and an sdist, made from a copy: builds leave things behind."""
    copy, out = tmp_path_factory.mktemp("checkout"), tmp_path_factory.mktemp("built")
    for name in BUILT_FROM:
        ignored = shutil.ignore_patterns("__pycache__", "data", "*.so")
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=ignored)
    for name in BUILT_WITH:
        shutil.copy(ROOT / name, copy)
    run(sys.executable, "setup.py", "--quiet", "sdist", "--dist-dir", out, cwd=copy)
    with_code = os.environ | {"KVGPU_BUILD_CODE": "1" if has_level() else "0"}
    pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", out, copy, env=with_code)
    return out


def wheel_in(built):
    return next(built.glob("*.whl"))


def sdist_in(built):
    return next(built.glob("*.tar.gz"))


def test_a_wheel_holds_every_file_of_the_package_and_none_beside_it(built):
    with zipfile.ZipFile(wheel_in(built)) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    assert {name for name in names if not name.startswith("kvgpu/compiled/code/")} == PACKAGE_FILES


def test_an_sdist_holds_every_file_of_the_package_and_no_tests_or_benchmarks(built):
    with tarfile.open(sdist_in(built)) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert names >= {name for name in PACKAGE_FILES if not name.endswith(".so")}
    assert {name for name in names if name.startswith(("tests", "bench"))} == set()


@pytest.mark.parametrize("name", ["py.typed", "kernels/cuda/table.cuh", "kernels/cuda/lookup.cu"])
def test_what_is_no_python_was_found_in_the_checkout(name):
    assert f"kvgpu/{name}" in PACKAGE_FILES


class Installation:
    """An environment with kvgpu in it, and with the tests' dependencies within reach."""

    def __init__(self, folder, distribution):
        self._bin, self._elsewhere = folder / "bin", folder / "elsewhere"
        self._elsewhere.mkdir(parents=True)
        run(sys.executable, "-m", "venv", "--without-pip", folder)
        (packages,) = folder.glob("lib/python*/site-packages")
        lent = {Path(importlib.import_module(n).__file__).resolve().parents[1] for n in NEEDED}
        # Not what .pth files there add, where an editable kvgpu would be.
        (packages / "lent.pth").write_text("".join(f"{path}\n" for path in sorted(lent)))
        pip(
            "--python",
            self._bin / "python",
            "install",
            "--no-deps",
            "--no-build-isolation",
            "--no-index",
            "--no-compile",
            distribution,
            cwd=self._elsewhere,
        )

    def run(self, command, *arguments, **variables):
        environment = {k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")}
        return run(self._bin / command, *arguments, cwd=self._elsewhere, env=environment | variables)


@pytest.fixture(scope="module", params=[wheel_in, sdist_in], ids=["wheel", "sdist"])
def installed(request, built, tmp_path_factory):
    folder = tmp_path_factory.mktemp("environment")
    return Installation(folder, request.param(built))


def test_what_is_imported_is_what_was_installed(installed):
    done = installed.run("python", "-c", "import sys, kvgpu; print(sys.prefix, kvgpu.__file__)")
    prefix, found = done.stdout.split()
    assert found.startswith(prefix)
    assert not Path(found).is_relative_to(ROOT)


def test_the_doctor_passes(installed):
    done = installed.run("kvgpu", "doctor", "--backend", "host", "--json", "report.json")
    assert "result: all that can be used here passed" in done.stdout
    assert json.loads((installed._elsewhere / "report.json").read_text())["passed"]


@pytest.mark.skipif(not has_level(), reason=f"the processor is no {LEVEL}")
def test_a_wheel_with_code_compiles_nothing_on_a_fresh_machine(built, tmp_path):
    """Neither what `kvgpu warmup` calls, of which the wheel was made, nor what serves a trace."""
    installed, folder = Installation(tmp_path / "environment", wheel_in(built)), tmp_path / "cache"
    done = installed.run("kvgpu", "warmup", "--json", KVGPU_CACHE_DIR=str(folder))
    assert json.loads(done.stdout)["folder"].startswith(str(folder))
    installed.run("kvgpu", "replay", "--limit", "20", "--num-blocks", "500", KVGPU_CACHE_DIR=str(folder))
    assert [path for path in folder.rglob("*") if path.is_file()] == []


def test_a_replay_runs(installed):
    done = installed.run("kvgpu", "replay", "--limit", "20", "--num-blocks", "500")
    assert "hit rate" in done.stdout


def test_the_extension_in_c_is_there_if_there_is_a_compiler(installed):
    if shutil.which(sysconfig.get_config_var("CC").split()[0]) is None:
        pytest.skip("there is no C compiler")
    done = installed.run("python", "-c", "from kvgpu import native; print(native.Calls.__name__)", KVGPU_NATIVE="1")
    assert done.stdout.split() == ["Calls"]


def test_every_cuda_source_that_the_package_finds_is_compiled(installed):
    if shutil.which("g++") is None:
        pytest.skip("there is no C++ compiler")
    done = installed.run("python", "-c", COMPILE_KERNELS, PYTHONPATH=str(ROOT / "tests"))
    assert done.stdout.split() == ["lookup", "sha256", "update"]


def test_vllm_finds_the_plug_in(installed):
    code = (
        "from importlib.metadata import entry_points\n"
        "(plugin,) = entry_points(group='vllm.general_plugins')\n"
        "print(plugin.name, plugin.load().__module__, plugin.load()())\n"
    )
    done = installed.run("python", "-c", code, KVGPU_VLLM="0")
    assert done.stdout.split() == ["kvgpu", "kvgpu.vllm.plugin", "None"]
