"""`ModelRunner`: what a model would answer to a step, drawn once and copied for each side."""

import pickle
import random
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from in_vllm.soak.drawn_requests import EOS, STOPS, WORDS
from in_vllm.soak.scenario import Scenario
from vllm.v1.outputs import DraftTokenIds, KVConnectorOutput, LogprobsLists, LogprobsTensors, ModelRunnerOutput

NUM_LOGPROBS = 3


class ModelRunner:
    """Draws tokens, accepted drafts, log-probabilities, and what its half of the connector has to say.

    Args:
        scenario: Of the episode.
        rng: Decides.
    """

    def __init__(self, scenario: Scenario, rng: random.Random) -> None:
        self._scenario = scenario
        self._rng = rng

    def answer(self, scheduler: Any, connectors: Iterable[Any], output: Any, generating: set[str]) -> Any:
        """The answer to a step.

        Args:
            scheduler: One side's; the other is equal.
            connectors: Of both sides, which are told what has been loaded and sent.
            output: The step.
            generating: Requests whose prompt is computed with it.
        """
        rng, scenario = self._rng, self._scenario
        names = list(output.num_scheduled_tokens)
        if rng.random() < 0.5:
            # Requests keep their places in a batch for as long as they run, whatever the scheduler's order.
            rng.shuffle(names)
        drafts = output.scheduled_spec_decode_tokens
        tokens = [
            self._tokens(scheduler, name, len(drafts.get(name, ()))) if name in generating else [] for name in names
        ]
        has_logprobs = "logprobs" in scenario
        return ModelRunnerOutput(
            req_ids=names,
            req_id_to_index={name: place for place, name in enumerate(names)},
            sampled_token_ids=tokens,
            logprobs=self._logprobs(tokens) if has_logprobs else None,
            prompt_logprobs_dict=self._prompt_logprobs(scheduler, names, generating) if has_logprobs else {},
            kv_connector_output=self._transfers(scheduler, connectors, output) if "connector" in scenario else None,
            num_nans_in_logits=self._nan_counts(names),
        )

    def drafts(self, scheduled: Any) -> DraftTokenIds:
        """Draft tokens for the next step."""
        names = list(scheduled.num_scheduled_tokens)
        most = self._scenario.num_drafts
        return DraftTokenIds(names, [self._rng.choices(WORDS, k=self._rng.randint(0, most)) for _ in names])

    def _tokens(self, scheduler: Any, name: str, num_drafts: int) -> list[int]:
        rng, scenario = self._rng, self._scenario
        request = scheduler.requests.get(name)
        repeats = request is not None and request.sampling_params.repetition_detection is not None
        words = list(WORDS[:1] if repeats and rng.random() < 0.8 else WORDS)
        ends = [EOS] * ("eos" in scenario) + [*STOPS] * ("stop_tokens" in scenario)
        tokens = rng.choices(words, k=1 + rng.randint(0, num_drafts))
        if ends and rng.random() < 0.02:
            tokens[rng.randrange(len(tokens))] = rng.choice(ends)
        return tokens

    def _nan_counts(self, names: list[str]) -> dict[str, int] | None:
        """Counts of all requests in some steps, if the model makes them; else nothing, which may be an empty dict."""
        rng = self._rng
        if self._scenario.counts_nans and rng.random() < 0.3:
            return {name: rng.choice([0, 0, 1]) for name in names}
        return {} if rng.random() < 0.5 else None

    def _logprobs(self, tokens: list[list[int]]) -> LogprobsLists:
        """Rows of which each is different, for all requests one after the other."""
        counts = [len(each) for each in tokens]
        rows = np.arange(sum(counts), dtype=np.int32)
        columns = np.arange(NUM_LOGPROBS, dtype=np.int32)
        firsts = np.cumsum([0, *counts])[:-1].tolist()
        return LogprobsLists(rows[:, None] + columns, -(rows[:, None] + columns) / np.float32(8), rows, firsts)

    def _prompt_logprobs(self, scheduler: Any, names: list[str], generating: set[str]) -> dict[str, Any]:
        """For prompts that this step ends; a request of which an answer is dropped has none."""
        found = {}
        for name in names:
            request = scheduler.requests.get(name)
            if (
                name in generating
                and request is not None
                and request.sampling_params.prompt_logprobs is not None
                and not request.num_output_tokens
                and not getattr(request, "async_tokens_to_discard", 0)
            ):
                row = torch.arange(NUM_LOGPROBS, dtype=torch.int32)
                found[name] = LogprobsTensors(row[None], row[None] / 8, row[:1])
        return found

    def _transfers(self, scheduler: Any, connectors: Iterable[Any], output: Any) -> KVConnectorOutput | None:
        """What has been loaded and sent since the last step, and what could not be loaded."""
        rng = self._rng
        ours = scheduler.connector
        invalid = set()
        received = [name for name in ours.loading if rng.random() < 0.4]
        sent = [name for name in ours.sending if rng.random() < 0.3]
        loaded = [name for name in ours.loaded if name in output.num_scheduled_tokens]
        if "invalid_blocks" in self._scenario:
            for name in received + loaded:
                blocks = ours.loading.get(name) or ours.loaded.get(name)
                if blocks and rng.random() < 0.35:
                    invalid.add(rng.choice(blocks))
        for connector in connectors:
            for ended, entries in (
                (received, connector.loading),
                (sent, connector.sending),
                (loaded, connector.loaded),
            ):
                for name in ended:
                    del entries[name]
        transfers = KVConnectorOutput(
            finished_sending=set(sent), finished_recving=set(received), invalid_block_ids=invalid
        )
        return None if transfers.is_empty() and rng.random() < 0.5 else transfers


def copies(answer: Any) -> tuple[Any, Any]:
    """An answer for each side, which may change it."""
    # As it comes from a worker; two copies, since the order of a set may be another one than in the original.
    sent = pickle.dumps(answer)
    return pickle.loads(sent), pickle.loads(sent)
