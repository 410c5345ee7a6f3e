"""Differences that are known, each with a function that recognises it; an episode ends with one."""

from typing import Any

from in_vllm.soak.comparison import Difference
from in_vllm.soak.states import held_for_two_groups


def session_too_long(difference: Difference, sides: Any, longest: int) -> bool:
    """A streaming session has grown beyond the length of the model.

    vLLM then gives it fewer blocks than it has tokens, and dies when it looks for the others. kvgpu refuses the tokens
    before anything has changed.
    """
    is_error = isinstance(difference.theirs, Exception) or isinstance(difference.ours, Exception)
    return is_error and any(
        request.resumable and request.num_tokens > longest
        for side in sides
        for request in side.scheduler.requests.values()
    )


def block_for_two_groups(difference: Difference, sides: Any, longest: int) -> bool:
    """vLLM holds one block for two groups, and kvgpu does not.

    With external tokens each group of vLLM takes its hits and its new blocks before the next group does, so that a new
    block of one group can be the hit of a later one. In kvgpu all groups take their hits first.
    """
    theirs, ours = (held_for_two_groups(side.manager) for side in sides)
    return bool(theirs) and not ours


LISTED = {"a session longer than the model": session_too_long, "one block for two groups": block_for_two_groups}


def name_of(difference: Difference, sides: Any, longest: int) -> str | None:
    """The listed difference that this is; None if it is a new one."""
    return next((name for name, is_it in LISTED.items() if is_it(difference, sides, longest)), None)
