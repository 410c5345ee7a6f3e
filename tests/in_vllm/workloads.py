"""Random requests for a real scheduler of vLLM, and all that it says while it serves them."""

import random
from typing import Any

import msgspec
from in_vllm import engines
from in_vllm.engines import Options, full, window
from vllm.v1.request import RequestStatus

KINDS = {
    "full": Options(),
    "async": Options(is_async=True),
    "full and window": Options(specs=(full(), window())),
    "few blocks": Options(num_blocks=40),
    "few blocks, async, window": Options(num_blocks=60, is_async=True, specs=(full(), window())),
}


def answered_plainly(answers: dict[int, Any]) -> list[Any]:
    """What clients are told after a step, as data to compare: all but the times."""
    plain = []
    for client, outputs in answers.items():
        outputs.timestamp = 0.0
        for each in outputs.outputs:
            each.events = [event.type for event in each.events or []]
        plain.append((client, msgspec.msgpack.encode(outputs.outputs), outputs.finished_requests))
        stats = outputs.scheduler_stats
        if stats is not None:
            plain.append(
                (stats.num_running_reqs, stats.num_waiting_reqs, stats.kv_cache_usage, stats.prefix_cache_stats.hits)
            )
    return plain


def serve(scheduler: Any, seed: int, steps: int = 60, most_tokens: int = 60) -> list[Any]:
    """Serve requests that share prefixes, end, and are aborted; return what each step told workers and clients."""
    rng, told = random.Random(seed), []
    hasher = engines.hasher_of_vllm()
    prefix = [rng.randrange(1000) for _ in range(200)]
    pending, number = [], 0
    for step in range(steps):
        for _ in range(rng.choice([0, 0, 1, 2])):
            tokens = prefix[: rng.choice([0, 40, 130, 200])] + [rng.randrange(1000) for _ in range(rng.randint(1, 90))]
            length = rng.randint(1, most_tokens)
            scheduler.add_request(engines.make_request(f"r{number}", tokens, hasher, length, client_index=number % 3))
            number += 1
        if rng.random() < 0.05 and scheduler.running:
            name = rng.choice(scheduler.running).request_id
            scheduler.finish_requests(name, RequestStatus.FINISHED_ABORTED)
        output = scheduler.schedule()
        told.append(engines.scheduled_plainly(output))
        pending.append(output)
        if len(pending) > scheduler.scheduler_config.async_scheduling:
            done = pending.pop(0)
            told.append(answered_plainly(scheduler.update_from_output(done, engines.output_of(scheduler, done, step))))
    return told
