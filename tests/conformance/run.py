"""Run a vLLM test file, unmodified, against kvgpu.

    python tests/conformance/run.py SUITE.py [--behaviour 0.33] [--backend NAME] [--kernels compiled] [-- OPTIONS]

OPTIONS go to pytest. Exit status: that of pytest; 2 for a bad command line. For a suite of 0.33 it is 0 if what failed
is what not_modelled.toml lists, each case with the feature that kvgpu lacks, else 1.
"""

import argparse
import os
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent


class CpuTestMarker:
    """pytest plugin: the marker that vLLM's suites put on tests that need no GPU."""

    def pytest_configure(self, config: object) -> None:
        config.addinivalue_line("markers", "cpu_test: needs no GPU")  # type: ignore[attr-defined]


def main(argv: list[str]) -> int:
    """Parse the command line, install the names and call pytest."""
    own, _, rest = (
        (argv, "", []) if "--" not in argv else (argv[: argv.index("--")], "--", argv[argv.index("--") + 1 :])
    )
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("suite", type=Path, help="a test file written for vLLM")
    parser.add_argument("--behaviour", choices=("0.23", "0.33"), default="0.23", help="vLLM that the suite is for")
    parser.add_argument("--backend", help="index backend (default: KVGPU_BACKEND, else host)")
    parser.add_argument("--kernels", choices=("interpreted", "compiled"), default="interpreted", help="without a GPU")
    parser.add_argument("--not-modelled", type=Path, help="list of cases that may fail (default: not_modelled.toml)")
    options = parser.parse_args(own)
    if not options.suite.is_file():
        parser.error(f"no such file: {options.suite}")
    sys.path[:0] = [str(ROOT), str(HERE), str(HERE.parent)]
    if options.kernels == "compiled":
        os.environ.pop("TRITON_INTERPRET", None)
        from support.ptx import triton_driver

        triton_driver.install()
    from kvgpu.errors import KVGPUError
    from kvgpu.index.registry import backend_by_name

    if options.backend:
        try:
            backend_by_name(options.backend)
        except KVGPUError as error:
            parser.error(str(error))
        os.environ["KVGPU_BACKEND"] = options.backend
    if options.backend == "cuda":
        # Without a GPU the CUDA kernels run on the CPU, beside the Triton kernels.
        from support.device.tables import why_not_cuda

        reason = why_not_cuda()
        if reason:
            parser.error(reason)
    import pytest
    from support.device.packages import Skips

    # The suite's own directory may hold a conftest that needs the real engine.
    arguments = [str(options.suite), "--noconftest", "-p", "no:cacheprovider", "-q"]
    plugins: list[Any] = [CpuTestMarker(), Skips()]
    if options.behaviour == "0.23":
        from names import install

        install()
        return int(pytest.main([*arguments, *rest], plugins=plugins))
    from later_names import install_later
    from listed import FILE, listed
    from tally import Tally

    from kvgpu.config.behaviour import behaviour_of

    install_later(behaviour_of(options.behaviour))
    tally = Tally(listed(options.suite.stem, options.not_modelled or FILE))
    # Each failure is one line of the table; `-- --tb=short` shows where.
    status = pytest.main([*arguments, "--tb=no", "-rN", *rest], plugins=[*plugins, tally])
    is_told = status in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    return int(not tally.verdict().is_good) if is_told else int(status)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
