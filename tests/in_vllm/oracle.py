"""Whether vLLM can be imported here, and does what a test is about."""

import warnings

import pytest

from kvgpu.vllm.capabilities import behaviour_of_vllm


def why_no_vllm(*versions: str) -> str:
    """Return why no vLLM is here that behaves as one of `versions`, which name behaviours; nothing if one is."""
    wanted = f"vLLM that behaves as {' or '.join(versions)}"
    try:
        # It warns of what torch and others deprecate.
        with warnings.catch_warnings(action="ignore"):
            import vllm
            from in_vllm import engines  # noqa: F401
    except ImportError as error:
        return f"{wanted} is not installed: nothing was tried inside it ({error})"
    behaviour = behaviour_of_vllm()
    if behaviour is None or behaviour.version not in versions:
        return f"this is about {wanted}, and here is {vllm.__version__}"
    return ""


def is_0_33() -> bool:
    """Whether a vLLM is here that behaves as 0.33."""
    return not why_no_vllm("0.33")


def require_vllm(*versions: str, whole_module: bool = True) -> None:
    """Skip the module, or else the test, that calls this, and say so, unless such a vLLM is there; by default 0.23."""
    if reason := why_no_vllm(*(versions or ("0.23",))):
        pytest.skip(reason, allow_module_level=whole_module)
