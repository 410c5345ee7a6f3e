"""Whether vLLM can be imported here, in the version that kvgpu serves."""

import warnings

import pytest

from kvgpu.vllm.plugin import SERVED_VERSION


def require_vllm(whole_module: bool = True, versions: tuple[str, ...] = (SERVED_VERSION,)) -> None:
    """Skip the module, or else the test, that calls this, and say so, unless vLLM is there in one of the versions."""
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
    if not vllm.__version__.startswith(versions):
        told = f"kvgpu is compared with vLLM {' and '.join(versions)} here, and this is {vllm.__version__}"
        pytest.skip(told, allow_module_level=whole_module)
