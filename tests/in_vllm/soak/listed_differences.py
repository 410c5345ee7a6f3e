"""Differences that are known, each with a function that recognises it; an episode ends with one."""

from typing import Any

from in_vllm.soak.comparison import Difference
from in_vllm.soak.states import held_for_two_groups

from kvgpu.errors import ArgumentError


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


def negative_tokens(difference: Difference, sides: Any, longest: int) -> bool:
    """vLLM has scheduled less than no tokens of a session, whose count of tokens to come is wrong after its input grew.

    No worker can compute that. kvgpu refuses to give slots for it.
    """
    scheduled = getattr(difference.theirs, "num_scheduled_tokens", {})
    return isinstance(difference.ours, ArgumentError) and any(
        count < 0 and sides[0].scheduler.requests[name].resumable for name, count in scheduled.items()
    )


def negative_computed(difference: Difference, sides: Any, longest: int) -> bool:
    """vLLM counts less than no tokens of a request as computed, after blocks could not be loaded while drafts were on
    their way.

    It caches nothing then. kvgpu refuses the number.
    """
    return isinstance(difference.ours, ArgumentError) and any(
        request.num_computed_tokens < request.num_output_placeholders
        for request in sides[0].scheduler.requests.values()
    )


LISTED = {
    "a session longer than the model": session_too_long,
    "one block for two groups": block_for_two_groups,
    "a session of less than no tokens": negative_tokens,
    "less than no tokens are computed": negative_computed,
}


def name_of(difference: Difference, sides: Any, longest: int) -> str | None:
    """The listed difference that this is; None if it is a new one."""
    return next((name for name, is_it in LISTED.items() if is_it(difference, sides, longest)), None)
