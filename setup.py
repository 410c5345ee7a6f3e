"""Package metadata. `kvgpu/kernels` is a link to the top-level `kernels/` and is packaged with it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import ClassVar

import numpy
from setuptools import Command, Extension, find_packages, setup
from setuptools.command.build import build

HERE = Path(__file__).parent

# Without a C compiler kvgpu is built without it, and serves single calls more slowly.
CALLS = Extension(
    "kvgpu.native._calls",
    [
        f"kvgpu/native/{name}.c"
        for name in ("module", "shared", "lookups", "slots", "tables", "columns", "rows", "hashes")
    ],
    depends=["kvgpu/native/calls.h"],
    include_dirs=[numpy.get_include()],
    optional=True,
)


class BuildCode(Command):
    """Compiles all of kvgpu's Python code that Numba compiles, for the wheel. A minute; needs kvgpu's dependencies."""

    description = "compile what Numba compiles"
    user_options: ClassVar = []

    def initialize_options(self):
        self.build_lib = None
        self.editable_mode = False

    def finalize_options(self):
        self.set_undefined_options("build", ("build_lib", "build_lib"))

    def run(self):
        if self.editable_mode:
            return
        package = Path(self.build_lib).resolve()
        # What is set here must not get into everybody's code.
        variables = {name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "KVGPU_"))}
        variables |= {"PYTHONPATH": str(package), "PYTHONDONTWRITEBYTECODE": "1"}
        # Code is kept only where nobody else may write, as they may in many a build folder.
        with TemporaryDirectory() as folder:
            command = [sys.executable, "-m", "kvgpu", "warmup", "--for-wheel", folder]
            subprocess.run(command, cwd=package, env=variables, check=True)
            shutil.rmtree(package / "kvgpu" / "compiled" / "code", ignore_errors=True)
            shutil.copytree(folder, package / "kvgpu" / "compiled" / "code", copy_function=shutil.copyfile)

    def get_source_files(self):
        return []

    def get_outputs(self):
        return []

    def get_output_mapping(self):
        return {}


class Build(build):
    sub_commands: ClassVar = [
        *build.sub_commands,
        ("build_code", lambda self: os.environ.get("KVGPU_BUILD_CODE") == "1"),
    ]


# torch and triton come as a pair (torch pins the Triton it was built for).
GPU = ["torch>=2.8", "triton>=3.5"]

setup(
    name="kvgpu",
    version="0.1.0",
    description="A KV-cache manager for LLM engines with its prefix-cache index in GPU memory",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    license_files=["LICENSE"],
    python_requires=">=3.11",
    ext_modules=[CALLS],
    cmdclass={"build": Build, "build_code": BuildCode},
    packages=find_packages(include=["kvgpu", "kvgpu.*"]),
    package_data={
        "kvgpu": ["py.typed"],
        "kvgpu.native": ["*.c", "*.h", "*.pyi"],
        "kvgpu.kernels": ["cuda/*.cu", "cuda/*.cuh"],
    },
    install_requires=["numpy>=1.26", "numba>=0.60", "xxhash>=3.4", "cbor2>=5.6", "msgspec>=0.18", "tqdm>=4.66"],
    extras_require={
        "gpu": GPU,
        "cuda12": [*GPU, "cupy-cuda12x>=13.3"],
        "cuda13": [*GPU, "cupy-cuda13x>=13.6"],
        "traces": ["zstandard>=0.22"],
        "events": ["pyzmq>=26"],
        "prometheus": ["prometheus-client>=0.20"],
        "vllm": ["vllm==0.23.0"],
        "dev": [
            "cachetools>=5",
            "coverage>=7.6",
            "hypothesis>=6.100",
            "matplotlib>=3.8",
            "mypy>=1.11",
            "prometheus-client>=0.20",
            "pytest>=9",
            "pytest-xdist>=3.6",
            "pyzmq>=26",
            "ruff>=0.6",
            "setuptools>=77",
            "zstandard>=0.22",
        ],
    },
    entry_points={
        "console_scripts": ["kvgpu=kvgpu.cli:main"],
        "vllm.general_plugins": ["kvgpu=kvgpu.vllm.plugin:register"],
    },
    classifiers=[
        "Programming Language :: Python :: 3",
        "Typing :: Typed",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
    ],
)
