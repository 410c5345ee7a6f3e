"""Whether vLLM can be imported here, in the version that kvgpu serves."""

import warnings

import pytest

from kvgpu.vllm.plugin import SERVED_VERSION


def require_vllm(whole_module: bool = True) -> None:
    """Skip the module, or else the test, that calls this, and say so, unless vLLM is there."""
    try:
        # It warns of what torch and others deprecate.
        with warnings.catch_warnings(action="ignore"):
            import vllm
            from in_vllm import engines  # noqa: F401
    except ImportError as error:
        pytest.skip(
            f"vLLM {SERVED_VERSION} is not installed: nothing was tried inside it ({error})",
            allow_module_level=whole_module,
        )
    if not vllm.__version__.startswith(SERVED_VERSION):
        pytest.skip(f"kvgpu serves vLLM {SERVED_VERSION}, this is {vllm.__version__}", allow_module_level=whole_module)
