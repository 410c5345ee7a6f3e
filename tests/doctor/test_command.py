"""`kvgpu doctor`: what it says of an installation, its options, and its exit status."""

import json
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from support.device.packages import needs
from support.doctor_runs import doctor

from kvgpu.cli import main
from kvgpu.compiled.cache import code_folder
from kvgpu.doctor import command
from kvgpu.doctor.installation import PACKAGES, Installation
from kvgpu.hashing.functions import HASH_FUNCTIONS
from kvgpu.index.registry import BACKENDS

KEYS = [
    "kvgpu",
    "python",
    "platform",
    "packages",
    "broken",
    "driver",
    "driver_cuda",
    "gpus",
    "gpu_problem",
    "interpreter",
    "compiled_code",
    "triton_code",
    "backend",
    "auto",
    "backends",
    "hashes",
    "problems",
    "passed",
]


@pytest.fixture(scope="module")
def everything():
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("KVGPU_BACKEND", raising=False)
        return doctor()


@pytest.fixture(autouse=True)
def no_backend_is_chosen(monkeypatch):
    monkeypatch.delenv("KVGPU_BACKEND", raising=False)


@pytest.fixture
def untested(monkeypatch):
    """Self-tests of backends that pass without a look, for tests of what is said about them."""
    monkeypatch.setattr(command, "backend_test", lambda name, interpreter: None)


@pytest.fixture
def no_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)


def blocked(*modules):
    """The command in a process where some modules cannot be imported."""
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({modules!r})); from kvgpu.cli import main; "
        "sys.exit(main(['doctor']))"
    )
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)


def _hash(name):
    needed = ("cbor2",) if name.endswith("_cbor") or name == "kvgpu128" else ()
    return pytest.param(name, marks=needs(*needed))


# All of it, here


def test_where_all_that_can_be_used_passes_the_status_is_0(everything):
    assert (everything.status, everything.report["problems"]) == (0, [])
    assert everything.report["passed"]
    assert everything.text.endswith("result: all that can be used here passed\n")


def test_every_backend_and_hash_function_has_one_verdict(everything):
    assert [v["name"] for v in everything.report["backends"]] == list(BACKENDS)
    assert [v["name"] for v in everything.report["hashes"]] == list(HASH_FUNCTIONS)


@pytest.mark.parametrize("name", ["reference", "host", "auto", *map(_hash, HASH_FUNCTIONS)])
def test_what_needs_no_gpu_passes(everything, name):
    assert everything.verdict(name)["state"] == "passed"


@pytest.mark.parametrize("name", [*BACKENDS, *HASH_FUNCTIONS])
def test_a_verdict_has_a_time_if_something_was_tested_else_a_reason(everything, name):
    verdict = everything.verdict(name)
    tested = verdict["state"] == "passed"
    assert (verdict["ms"] is not None) == tested
    assert tested or verdict["remark"]


@pytest.mark.parametrize("name", [*BACKENDS, *HASH_FUNCTIONS])
def test_the_text_says_what_the_json_says(everything, name):
    # `auto` has a line about what it does, too.
    lines = [line for line in everything.text.splitlines() if line.startswith(f"  {name} ")]
    assert everything.verdict(name)["state"] in lines[-1]


def test_triton_in_the_interpreter_is_said_to_be(everything):
    if not everything.report["interpreter"]:
        pytest.skip("the interpreter is off")
    assert everything.verdict("triton")["state"] == "passed"
    assert "interpreter" in everything.verdict("triton")["remark"]
    assert everything.text.count("nterpreter") >= 2  # beside the version, and beside the verdict


@pytest.mark.parametrize("name", PACKAGES)
def test_the_version_of_every_package_is_shown(everything, name):
    version = everything.report["packages"][name]
    line = next(line for line in everything.text.splitlines() if line.startswith(f"  {name} "))
    assert (version or "not installed") in line


@pytest.mark.parametrize("name", ["Python", "platform", "NVIDIA driver", "GPU", "compiled code"])
def test_the_machine_is_described(everything, name):
    assert everything.line(name)


def test_the_json_is_complete(everything):
    assert list(everything.report) == KEYS


# Where things are missing or broken


@needs("cbor2")
def test_without_packages_for_a_gpu_the_rest_is_tested():
    done = blocked("torch", "triton", "cupy", "msgspec", "tqdm", "zmq", "xxhash")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("not usable  ") == 4
    assert "xxhash is not installed" in done.stdout


def test_without_numba_every_backend_fails_and_the_report_is_complete():
    done = blocked("numba")
    assert (done.returncode, done.stderr) == (1, "")
    assert "numba               not installed" in done.stdout
    assert "result: FAILED: reference (self-test), host (self-test)" in done.stdout


@pytest.mark.parametrize("name", ["triton", "cuda"])
def test_a_backend_that_cannot_be_used_is_listed_and_no_failure(no_torch, untested, name):
    run = doctor()
    assert run.verdict(name)["state"] == "not usable"
    assert "PyTorch is not installed" in run.verdict(name)["remark"]
    assert run.status == 0


def test_a_package_that_is_there_and_does_not_load_is_not_said_to_be_missing(monkeypatch, untested):
    def broken(name):
        raise OSError("libcudart.so.12: cannot open shared object file")

    monkeypatch.setattr("kvgpu.doctor.installation.import_module", broken)
    run = doctor("--backend", "host")
    assert "libcudart" in run.line("torch")
    assert run.report["gpu_problem"] == "PyTorch is broken"


def test_a_chosen_backend_that_cannot_be_used_is_status_1(no_torch, untested, monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "triton")
    run = doctor()
    assert (run.status, run.report["passed"]) == (1, False)
    assert run.report["problems"] == ["triton (asked for and not usable here)"]


def test_a_named_backend_that_cannot_be_used_is_status_1(no_torch):
    run = doctor("--backend", "cuda")
    assert (run.status, run.verdict("cuda")["state"]) == (1, "not usable")


def test_auto_without_a_gpu_is_chosen_in_vain_and_passes(no_torch, untested, monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "auto")
    run = doctor()
    assert (run.status, run.verdict("auto")["remark"]) == (0, "host only")
    assert run.report["auto"]["crossover"] is None
    assert "PyTorch" in run.report["auto"]["reason"]


def test_gpus_are_those_that_pytorch_sees(monkeypatch):
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    gpu = SimpleNamespace(name="NVIDIA H100", total_memory=80 * 2**30, major=9, minor=0)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: gpu)
    here = Installation.found()
    lines = [text for name, text in command._rows(here) if name == "GPU"]
    assert lines == 2 * ["NVIDIA H100, 80.0 GiB, compute capability 9.0"]


def test_gpus_that_cannot_be_asked_are_no_traceback(monkeypatch):
    torch = pytest.importorskip("torch")

    def fail():
        raise RuntimeError("CUDA unknown error")

    monkeypatch.setattr(torch.version, "cuda", "12.8")
    monkeypatch.setattr(torch.cuda, "is_available", fail)
    assert Installation.found().gpu_problem == "RuntimeError: CUDA unknown error"


@pytest.fixture
def kept_in(monkeypatch, tmp_path):
    """The folder that is configured for compiled code."""
    monkeypatch.setenv("KVGPU_CACHE_DIR", str(tmp_path / "cache"))
    code_folder.cache_clear()
    yield tmp_path / "cache"
    code_folder.cache_clear()


def test_the_folder_for_compiled_code_is_shown(kept_in):
    found = Installation.found().compiled_code
    assert Path(found.path).parent == kept_in
    assert (found.writable, found.problem) == (True, None)


def test_a_folder_for_compiled_code_that_others_may_write_is_said_to_be_one(kept_in):
    kept_in.mkdir()
    kept_in.chmod(0o777)
    found = Installation.found().compiled_code
    assert (found.path, found.writable) == (str(kept_in), False)
    assert f"others may write {kept_in}" in found.problem
    assert "every process compiles anew" in found.problem


def test_cuda_kernels_are_not_given_the_memory_of_the_interpreter(everything, monkeypatch):
    if not everything.report["interpreter"]:
        pytest.skip("the interpreter is off")
    runtime = SimpleNamespace(getDeviceCount=lambda: 1, CUDARuntimeError=RuntimeError)
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=runtime))
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    run = doctor("--backend", "cuda")
    assert run.verdict("cuda")["state"] == "not usable"
    assert "CPU memory" in run.verdict("cuda")["remark"]


# Options and variables


def test_only_backends_that_are_named_are_tested(untested):
    run = doctor("--backend", "host,reference", "--backend", "host", "--backend", "auto")
    assert [v["name"] for v in run.report["backends"]] == ["host", "reference", "auto"]


@pytest.mark.parametrize("name", ["", "nowhere", "host,nowhere", "HOST"])
def test_an_unknown_backend_is_one_line_and_status_2(capsys, name):
    assert main(["doctor", "--backend", name]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("kvgpu: error: unknown index backend ")


def test_an_unknown_backend_in_the_variable_is_status_2(capsys, monkeypatch):
    monkeypatch.setenv("KVGPU_BACKEND", "nowhere")
    assert main(["doctor"]) == 2
    assert "'nowhere'" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("value", "name", "reason"), [(None, "host", "not set"), ("reference", "reference", "KVGPU_BACKEND")]
)
def test_the_backend_of_managers_is_shown_with_its_reason(untested, monkeypatch, value, name, reason):
    if value is not None:
        monkeypatch.setenv("KVGPU_BACKEND", value)
    run = doctor("--backend", "host")
    assert run.report["backend"]["name"] == name
    assert reason in run.report["backend"]["reason"]
    assert run.line("backend") == f"{name} ({run.report['backend']['reason']})"


def test_json_goes_to_a_file_and_the_text_to_standard_output(untested, tmp_path, capsys):
    path = tmp_path / "report.json"
    assert main(["doctor", "--backend", "host", "--json", str(path)]) == 0
    assert list(json.loads(path.read_text())) == KEYS
    out, err = capsys.readouterr()
    assert out.startswith("kvgpu ")
    assert err == ""


def test_a_file_that_cannot_be_written_is_status_2(untested, tmp_path, capsys):
    status = main(["doctor", "--backend", "host", "--json", str(tmp_path / "missing" / "x.json")])
    assert (status, capsys.readouterr().err.count("\n")) == (2, 1)
