"""What a scheduler and its manager know, as data to compare."""

from operator import attrgetter
from typing import Any

from in_vllm.oracle import is_0_33
from in_vllm.soak.comparison import same
from in_vllm.soak.sides import Side

IS_0_33 = is_0_33()
OF_0_33 = (
    "num_in_flight_tokens",
    "num_stale_output_tokens",
    "drop_stale_output",
    "shared_prefix_boundary",
    "last_sched_seq",
)
FACTS = (
    "status",
    "num_computed_tokens",
    "num_output_placeholders",
    "is_prefill_chunk",
    "num_prompt_tokens",
    "num_tokens",
    "num_output_tokens",
    "num_preemptions",
    "next_decode_eligible_step",
    "stop_reason",
    "num_nans_in_logits",
    "spec_token_ids",
    "_output_token_ids",
    "_all_token_ids",
    "prompt_token_ids",
    "block_hashes",
    *(OF_0_33 if IS_0_33 else ("async_tokens_to_discard",)),
)
"""Of a request."""

read_facts = attrgetter(*FACTS)
UNORDERED = ("_inflight_prefills", *(("deferred_waiting",) if IS_0_33 else ()))
QUEUES = ("running", "waiting", "kv_holding_waiting" if IS_0_33 else "skipped_waiting", *UNORDERED)
COUNTS = (
    "finished_req_ids",
    "prev_step_scheduled_req_ids",
    "finished_recving_kv_req_ids",
    "failed_recving_kv_req_ids",
    "num_waiting_for_streaming_input",
    "current_step",
    "max_num_running_reqs",
    "max_num_scheduled_tokens",
    *(
        (
            "max_num_active_reqs",
            "prefill_capacity_bound",
            "num_executed_steps",
            "last_prefill_step",
            "sched_step_seq",
            "processed_step_seq",
        )
        if IS_0_33
        else ()
    ),
)
"""Of a scheduler."""


def same_requests(theirs: Any, ours: Any) -> None:
    """Compare the queues of two schedulers, and all that each request says of itself.

    Raises:
        Difference: Something is not equal.
    """
    same("requests", list(theirs.requests), list(ours.requests))
    for queue in QUEUES:
        names = [[request.request_id for request in getattr(side, queue)] for side in (theirs, ours)]
        if queue in UNORDERED:
            names = [sorted(each) for each in names]
        same(f"queue {queue}", *names)
    for count in COUNTS:
        same(f"scheduler.{count}", getattr(theirs, count), getattr(ours, count))
    for first, second in zip(theirs.requests.values(), ours.requests.values(), strict=True):
        facts, others = read_facts(first), read_facts(second)
        # Of tokens, the last has come now; the types of all are compared with the managers.
        same_types = list(map(type, facts)) == list(map(type, others)) and (
            type(first._all_token_ids[-1]) is type(second._all_token_ids[-1])
        )
        if facts != others or not same_types:
            same_facts(first, second)
        if first.events or second.events:
            events = [[event.type for event in request.events] for request in (first, second)]
            same(f"events of request {first.request_id}", *events)


def same_facts(theirs: Any, ours: Any) -> None:
    """Compare two requests one fact after the other.

    Raises:
        Difference: A fact is not equal, or not of the same type.
    """
    for fact in (*FACTS, "prefill_stats"):
        same(f"request {theirs.request_id}.{fact}", getattr(theirs, fact), getattr(ours, fact))


def _tables(manager: Any) -> list[dict[str, list[int]]]:
    """Ids of the blocks of each request, by group; empty tables come and go by accident."""
    return [
        {name: [block.block_id for block in blocks] for name, blocks in sorted(group.req_to_blocks.items()) if blocks}
        for group in manager.coordinator.single_type_managers
    ]


def held_for_two_groups(manager: Any) -> set[int]:
    """Ids of blocks that stand in the tables of two groups."""
    seen: set[int] = set()
    twice: set[int] = set()
    null = manager.block_pool.null_block.block_id
    for table in _tables(manager):
        ids = {block_id for blocks in table.values() for block_id in blocks} - {null}
        twice |= seen & ids
        seen |= ids
    return twice


def manager_state(manager: Any) -> dict[str, Any]:
    """All of a manager that decides what it will do."""
    pool = manager.block_pool
    # The count of the null block has no meaning.
    blocks = [block for block in pool.blocks if not block.is_null]
    cached = pool.cached_block_hash_to_block._cache
    return {
        "free queue": [block.block_id for block in pool.free_block_queue.get_all_free_blocks()],
        "block tables": _tables(manager),
        "users": [block.ref_cnt for block in blocks],
        "hashes": [block.block_hash for block in blocks],
        "cached blocks": {
            key: list(entry) if isinstance(entry, dict) else entry.block_id for key, entry in sorted(cached.items())
        },
        "blocks handled by caching": [
            dict(sorted(group.num_cached_block.items())) for group in manager.coordinator.single_type_managers
        ],
        "usage": manager.usage,
    }


def encoder_state(cache: Any) -> tuple[Any, ...]:
    """Of an encoder cache."""
    return (
        cache.num_free_slots,
        cache.num_freeable_slots,
        dict(cache.cached),
        list(cache.freeable.items()),
        list(cache.freed),
    )


def same_managers(theirs: Side, ours: Side) -> None:
    """Compare the managers, and have kvgpu's check itself.

    Raises:
        Difference: Something is not equal.
    """
    states = [manager_state(side.manager) for side in (theirs, ours)]
    for part, value in states[0].items():
        same(f"manager, {part}", value, states[1][part])
    same("encoder cache", *[encoder_state(side.scheduler.encoder_cache_manager) for side in (theirs, ours)])
    for first, second in zip(theirs.scheduler.requests.values(), ours.scheduler.requests.values(), strict=True):
        same_facts(first, second)
    if hasattr(ours.manager, "check"):
        ours.manager.check()
