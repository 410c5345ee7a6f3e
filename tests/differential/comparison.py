"""The same calls to two systems: results, errors and all state are compared after each."""

import random
from collections import Counter
from typing import Any

from configs import Config, random_config
from systems import System, plain

from kvgpu.config.behaviour import behaviour_of


class Difference(AssertionError):
    """The systems disagree; the message holds the configuration and the last calls."""


class Refused(Exception):
    """Both systems refused a call; the episode ends, since the other may be half changed."""


class Comparison:
    """Makes two systems of one random configuration, and calls both.

    Args:
        seed: Decides everything.
        ours: Modules of the system under test.
        oracle: Modules of the system that is right.
        counts: Calls by name, added to.
    """

    def __init__(self, seed: int, ours: Any, oracle: Any, counts: Counter[str]) -> None:
        self.rng = random.Random(seed)
        self.seed = seed
        self.behaviour = behaviour_of(ours["options"]["behaviour"])
        self.config: Config = random_config(self.rng, self.behaviour)
        self.counts = counts
        self.log: list[str] = []
        self.systems: list[System] = []
        self.compares: dict[str, Any] = {}
        """Calls of which not all is compared, and what is."""
        outcomes = [self._attempt(lambda m=m: System(m, self.config)) for m in (ours, oracle)]
        self._same_outcome("construct", *outcomes, compare=lambda result: None)
        self.systems = [result for result, _ in outcomes]

    @staticmethod
    def _attempt(call: Any) -> tuple[Any, Exception | None]:
        try:
            return call(), None
        except Exception as error:
            return None, error

    def _same_outcome(self, name: str, mine: Any, theirs: Any, compare: Any = plain) -> Any:
        self.counts[name] += 1
        (my_result, my_error), (their_result, their_error) = mine, theirs
        if their_error is not None:
            if my_error is None and self._differs_on_purpose(name, my_result, their_error):
                self.counts["ended: differs on purpose: " + name] += 1
                raise Refused(f"{name}: the oracle raised {their_error!r}, we did not")
            if my_error is None:
                self._differ(f"{name}: the oracle raised {their_error!r}, we returned {my_result!r}")
            self.counts["refused: " + name] += 1
            raise Refused(f"{name}: {my_error!r} / {their_error!r}")
        if my_error is not None:
            raise Difference(f"{name}: {self._story()}") from my_error
        if compare(my_result) != compare(their_result):
            self._differ(f"{name}: ours {compare(my_result)}\n  oracle {compare(their_result)}")
        return my_result, their_result

    @staticmethod
    def _differs_on_purpose(name: str, my_result: Any, their_error: Exception) -> bool:
        """What docs/semantics.md lists: external tokens beyond the length of the model that do not fit, and a lookup of
        states for a request that lacks hashes because they look ahead."""
        fits_not = isinstance(their_error, ValueError) and "free blocks" in str(their_error)
        lacks_hashes = isinstance(their_error, IndexError) and name.startswith("get_computed_blocks")
        return lacks_hashes or (name == "allocate_slots" and my_result is None and fits_not)

    def call(self, name: str, request_id: str | None, *args: Any, **kwargs: Any) -> Any:
        """The same call on both; arguments that are pairs differ by system."""
        self.log.append(f"{name}({request_id}, {args}, {kwargs})"[:600])
        outcomes = []
        dice = self.rng.random()
        for place, system in enumerate(self.systems):
            random.seed(dice)  # the residency metrics sample with the global generator
            own = {k: v[place] if isinstance(v, list) else v for k, v in kwargs.items()}
            outcomes.append(self._attempt(lambda system=system, own=own: system.call(name, request_id, *args, **own)))
        results = self._same_outcome(name, *outcomes, compare=self.compares.get(name, plain))
        self.compare_states()
        return results

    def compare_states(self) -> None:
        mine, theirs = (system.state() for system in self.systems)
        for key in mine:
            if mine[key] != theirs[key]:
                self._differ(f"{key}: ours {mine[key]}\n  oracle {theirs[key]}")
        self.systems[0].manager.check()

    def _story(self) -> str:
        return f"seed {self.seed}\n  {self.config}\n  " + "\n  ".join(self.log[-12:])

    def _differ(self, what: str) -> None:
        raise Difference(f"{what}\n  {self._story()}")

    def _set(self, request_id: str, **values: Any) -> None:
        for system in self.systems:
            for name, value in values.items():
                setattr(system.requests[request_id], name, value)
