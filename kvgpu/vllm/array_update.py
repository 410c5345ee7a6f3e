"""What a model answered to an `ArrayStep`, and how it is passed on together with what vLLM makes of all others."""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from vllm.v1.engine import EngineCoreOutput, EngineCoreOutputs
from vllm.v1.request import RequestStatus

from kvgpu.vllm.array_step import ArrayStep, add_to

Made = dict[str, tuple[int, Any]]
"""Outputs by name of request, with the client they are for."""

RUNNING = RequestStatus.RUNNING


class AnswerRules(NamedTuple):
    """What a scheduler does with each new token."""

    hash_block_size: int
    """Tokens per block hash."""
    is_async: bool
    """Whether it counts tokens that are sampled but not known yet."""
    counts_in_flight: bool
    """Whether it counts tokens of steps that have not ended."""
    cache: Callable[[Any, int], None] | None
    """Caches full blocks of a request; None if this is done when slots are given."""


def is_usual(answer: Any) -> bool:
    """Whether a `ModelRunnerOutput` has tokens, and nothing that must be looked at for each request. O(1)."""
    return bool(
        answer.sampled_token_ids
        and not answer.pooler_output
        and not answer.prompt_logprobs_dict
        and answer.kv_connector_output is None
        and not answer.num_nans_in_logits
        # Some of these are not in all versions.
        and getattr(answer, "routed_experts", None) is None
        and getattr(answer, "sampling_masks", None) is None
        and not getattr(answer, "prompt_token_id_logprobs_dict", None)
    )


def append_tokens(step: ArrayStep, answer: Any, rules: AnswerRules) -> Made:
    """Append the new tokens of those requests that go on, and make their outputs.

    Args:
        step: The requests.
        answer: A `ModelRunnerOutput` that `is_usual`.
        rules: Of the scheduler.

    Returns:
        What was made. A request that is not in it has not been touched: it ends, or something about it is not usual.

    O(requests).
    """
    made: Made = {}
    index_of, sampled = answer.req_id_to_index, answer.sampled_token_ids
    hash_block_size, is_async, counts_in_flight, cache = rules
    served: list[Any] = []
    in_order = True
    for name, row in zip(step.ids, step.answered, strict=True):
        if row is None:
            in_order = False
            continue
        request, append_output, append_token, token_ids, stops, limit, client = row
        new = sampled[index_of[name]]
        num_tokens = len(token_ids) + 1
        num_computed = request.num_computed_tokens
        if (
            len(new) != 1
            or num_tokens >= limit
            or new[0] in stops
            or request.status is not RUNNING
            or request.events
            or request.prefill_stats is not None
            or request.num_nans_in_logits
            # Blocks are cached in the order of the requests.
            or not (in_order or cache is None or (num_tokens - 1) % hash_block_size)
        ):
            in_order = False
            continue
        if is_async:
            holders = request.num_output_placeholders
            if (
                num_tokens - 1 + holders - num_computed != 1
                or holders < 1
                # Answers to steps before it had to give way are still to come.
                or (
                    request.num_in_flight_tokens != holders if counts_in_flight else request.async_tokens_to_discard > 0
                )
            ):
                in_order = False
                continue
            request.num_output_placeholders = holders - 1
        elif num_computed != num_tokens - 1 or (counts_in_flight and request.num_in_flight_tokens != 1):
            in_order = False
            continue
        served.append(request)
        append_output(new[0])
        append_token(new[0])
        if num_tokens % hash_block_size == 0:
            request.update_block_hashes()
        if cache is not None and (num_tokens - 1) % hash_block_size == 0:
            cache(request, num_tokens - 1)
        made[name] = (client, EngineCoreOutput(name, new))
    if counts_in_flight:
        add_to(served, "num_in_flight_tokens", -1)
    return made


def joined(order: Iterable[str], made: Made, theirs: dict[int, Any]) -> dict[int, Any]:
    """Put outputs together as if vLLM had made all of them.

    Args:
        order: Names of all requests of the step.
        made: The outputs made here.
        theirs: `EngineCoreOutputs` by client, of all other requests.

    O(requests).
    """
    stats = None
    listed: dict[int, list[Any]] = defaultdict(list)
    others: Made = {}
    for client, outputs in theirs.items():
        if outputs.scheduler_stats is not None:
            stats, outputs.scheduler_stats = outputs.scheduler_stats, None
        others.update((each.request_id, (client, each)) for each in outputs.outputs)
    if others:
        for name in order:
            found = made.get(name) or others.get(name)
            if found is not None:
                listed[found[0]].append(found[1])
    else:
        for client, output in made.values():
            listed[client].append(output)
    result: dict[int, Any] = {}
    for client, outputs in listed.items():
        known = theirs.pop(client, None)
        if known is None:
            known = EngineCoreOutputs()
        known.outputs = outputs
        result[client] = known
    result.update({client: each for client, each in theirs.items() if each.finished_requests is not None})
    if stats is not None:
        if not result:
            result[0] = EngineCoreOutputs()
        next(iter(result.values())).scheduler_stats = stats
    return result
