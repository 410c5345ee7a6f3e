"""`WaitingOrder`: the order in which a scheduler of vLLM admits requests, by what is cached of them."""

import logging
import time
from collections import deque
from typing import Any

from kvgpu.batch.admission import Policy, check_policy, policy_for
from kvgpu.errors import KVGPUError
from kvgpu.manager import KVCacheManager

logger = logging.getLogger(__name__)


def _waited_ms(request: Any) -> float:
    return 1e3 * (time.time() - float(request.arrival_time))


def _arrival(request: Any) -> tuple[bool, float]:
    return request.num_preemptions == 0, request.arrival_time


class WaitingOrder:
    """Orders the waiting queue of vLLM's scheduler before each step; all of it is looked up in one call.

    Args:
        policy: Which requests go first.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy: Policy | None = policy

    def arrange(self, waiting: deque[Any], running: list[Any]) -> list[Any]:
        """Order the queue, and take out the requests that should not be admitted in this step; return them.

        If requests cannot be looked up, the log says why, and the queue stays in the order of arrival from then on.
        O(requests), and their lookups.
        """
        if self._policy is None or not waiting:
            return []
        try:
            num_held = self._policy.arrange(waiting, running, _waited_ms)
        except KVGPUError as error:
            logger.warning("requests are admitted in the order of arrival from now on: %s", error)
            self._policy = None
            return []
        return [waiting.pop() for _ in range(num_held)][::-1]


def waiting_order(name: str | None, manager: Any, queue: Any) -> WaitingOrder | None:
    """Make the order of a policy; None if requests are to be admitted as vLLM does.

    Args:
        name: Of the policy; None for `fcfs`.
        manager: Of the cache; the log says so if it is not kvgpu's.
        queue: The scheduler's waiting queue; the log says so if it has an order of its own.

    Raises:
        UnknownNameError: There is no such policy; the message lists all policies.
    """
    name = name or "fcfs"
    check_policy(name)
    kind = policy_for(name, manager)
    if kind is None:
        return None
    if not isinstance(manager, KVCacheManager) or not manager.enable_caching or not isinstance(queue, deque):
        logger.warning("KVGPU_VLLM_POLICY=%s changes nothing: without prefix caching, or with priorities", name)
        return None
    return WaitingOrder(kind(manager, arrival=_arrival))
