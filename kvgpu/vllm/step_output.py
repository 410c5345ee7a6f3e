"""What a `SchedulerOutput` of vLLM 0.33 says of all requests of a step, beside lists of them."""

from typing import Any

from kvgpu.vllm.array_step import ArrayStep


def complete(scheduler: Any, output: Any, step: ArrayStep) -> None:
    """Have the output speak of requests that arrays serve as well, once they have been merged into it.

    Args:
        scheduler: Has scheduled the others; what it knows of the requests is as before the step.
        output: The output.
        step: The requests that arrays serve.

    O(1), and O(requests) with drafters.
    """
    if scheduler.dynamic_sd_lookup is not None:
        output.num_spec_tokens_to_schedule = scheduler.dynamic_sd_lookup[len(output.num_scheduled_tokens)]
    if output.skip_drafts:
        numbers = zip(step.requests, step.num_computed, step.num_new, strict=True)
        output.skip_drafts = all(scheduler._drafts_unused(*each) for each in numbers)
    if scheduler._pending_encoder_input_ids:
        updates = scheduler._get_encoder_input_updates(dict.fromkeys(step.ids), [], {})
        output.encoder_input_updates = {**updates, **output.encoder_input_updates}
    if output.kv_connector_block_state is not None:
        output.kv_connector_block_state.req_ids.update(step.ids)


def count_step(scheduler: Any) -> None:
    """Count a step of which vLLM has scheduled nothing itself. O(1)."""
    scheduler.num_executed_steps += 1
    if scheduler.defer_block_free:
        scheduler.sched_step_seq += 1
