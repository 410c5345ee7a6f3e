"""Requests at random: what one is like is drawn once, and made into a request of vLLM for each side."""

import random
from typing import Any

from in_vllm.soak.scenario import Scenario
from vllm.lora.request import LoRARequest
from vllm.multimodal.inputs import MultiModalFeatureSpec, PlaceholderRange
from vllm.sampling_params import RepetitionDetectionParams, SamplingParams, StructuredOutputsParams
from vllm.v1.request import Request

EOS = 7
STOPS = (8, 9)
WORDS = range(10, 14)
"""Tokens of prompts and answers: few, so that blocks of different requests are often equal."""

IMAGES = {"cat": 5, "dog": 24, "cow": 40}
"""Multimodal inputs, with their tokens."""


Drawn = dict[str, Any]
"""What a request is like, as plain data."""


class Prompts:
    """Prompts that often share their beginning."""

    def __init__(self, rng: random.Random, longest: int) -> None:
        self._rng = rng
        # An answer of some length must fit behind the prompt.
        self._longest = longest - 24
        self._stems = [self.words(rng.choice([40, 100, 160, longest])) for _ in range(4)]

    def words(self, count: int) -> list[int]:
        """So many tokens."""
        return self._rng.choices(WORDS, k=count)

    def draw(self) -> list[int]:
        """A prompt: often a piece of a stem, and then tokens of its own; now and then one that barely fits."""
        rng = self._rng
        tokens = self.words(rng.choice([1, 3, 16, 30, 60]))
        if rng.random() < 0.7:
            stem = rng.choice(self._stems)
            tokens = stem[: rng.choice([16, 32, 64, 96, len(stem)])] + tokens
        longest = self._longest + rng.choice([0, 10, 22, 23]) if rng.random() < 0.1 else self._longest
        return tokens[:longest]


def draw_request(
    rng: random.Random, scenario: Scenario, name: str, prompt: list[int], arrival: float
) -> dict[str, Any]:
    """Draw what a request is like."""

    def now_and_then(feature: str, chance: float) -> bool:
        return feature in scenario and rng.random() < chance

    params: dict[str, Any] = {"max_tokens": rng.choice([1, 8, 24, 60, 60, 120]), "ignore_eos": "eos" not in scenario}
    request: Drawn = {"request_id": name, "prompt_token_ids": prompt, "arrival_time": arrival}
    if now_and_then("logprobs", 0.3):
        params["logprobs"] = rng.choice([0, 2])
    if now_and_then("logprobs", 0.1):
        params["prompt_logprobs"] = 1
    if now_and_then("stop_tokens", 0.5):
        params["stop_token_ids"] = list(STOPS[: rng.randint(1, 2)])
    if now_and_then("min_tokens", 0.5):
        # vLLM would never end an answer that cannot become so long.
        params["min_tokens"] = rng.randint(1, min(params["max_tokens"], scenario.longest - len(prompt)))
    if now_and_then("repetition_detection", 0.3):
        params["repetition_detection"] = RepetitionDetectionParams(max_pattern_size=3, min_pattern_size=1, min_count=6)
    if now_and_then("structured_output", 0.4):
        params["structured_outputs"] = StructuredOutputsParams(regex="[a-z]+")
    if now_and_then("priority", 1):
        request["priority"] = rng.choice([0, 0, 1, 2])
    if now_and_then("lora", 0.6):
        request["lora"] = rng.randint(1, 3)
    if now_and_then("cache_salt", 0.5):
        request["cache_salt"] = rng.choice(["a", "b"])
    if now_and_then("several_clients", 1):
        request["client_index"] = rng.randrange(3)
        if rng.random() < 0.05:
            request["trace_headers"] = {"traceparent": name}
    if now_and_then("streaming", 0.3):
        request["resumable"] = True
    elif now_and_then("multimodal", 0.4):
        request["images"] = _draw_images(rng, len(prompt))
    return request | {"params": params}


def _draw_images(rng: random.Random, num_tokens: int) -> list[tuple[str, int]]:
    """Inputs, each with the place of its first token, one after the other."""
    images, place = [], 0
    for _ in range(rng.randint(1, 3)):
        name = rng.choice(list(IMAGES))
        place += rng.randint(0, 30)
        if place + IMAGES[name] >= num_tokens:
            break
        images.append((name, place))
        place += IMAGES[name]
    return images


def make_request(drawn: Drawn, hasher: Any) -> Request:
    """A request that shares nothing with that of the other side."""
    rest = dict(drawn)
    params = SamplingParams(**rest.pop("params"))
    params.update_from_generation_config({}, EOS)
    adapter = rest.pop("lora", None)
    images = [
        MultiModalFeatureSpec(
            data=None, modality="image", identifier=name, mm_position=PlaceholderRange(place, IMAGES[name])
        )
        for name, place in rest.pop("images", ())
    ]
    rest["prompt_token_ids"] = rest["prompt_token_ids"].copy()
    return Request(
        **rest,
        sampling_params=params,
        pooling_params=None,
        lora_request=LoRARequest(f"adapter {adapter}", adapter, "/adapter") if adapter else None,
        mm_features=images or None,
        block_hasher=hasher,
    )
