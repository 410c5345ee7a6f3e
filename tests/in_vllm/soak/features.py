"""The features of an episode: which there are, how often each is drawn, and what goes together."""

import random
from dataclasses import dataclass

SINGLE = ("full", "mla", "window")
WINDOWS = ("window", "full_window", "full_window_uneven", "three_groups")
MAMBA = ("mamba_align", "mamba_all", "mamba_none")
LAYOUTS = {
    "full": 51,
    "mla": 5,
    "window": 6,
    "full_window": 8,
    "full_window_uneven": 6,
    "three_groups": 6,
    "chunked_local": 6,
    "mamba_align": 4,
    "mamba_all": 4,
    "mamba_none": 4,
}
"""Kinds of cache groups, of which an episode has one, with weights."""

WITHOUT_MAMBA = tuple(layout for layout in LAYOUTS if layout not in MAMBA)


@dataclass(frozen=True)
class Feature:
    """What an episode may have.

    Attributes:
        chance: That an episode has it if nothing calls for it.
        needs: Features that come with it.
        excludes: Features that it cannot be together with.
        layouts: Kinds of cache groups that it works with.
    """

    chance: float
    needs: tuple[str, ...] = ()
    excludes: tuple[str, ...] = ()
    layouts: tuple[str, ...] = tuple(LAYOUTS)


FEATURES = {
    "async_scheduling": Feature(0.45, excludes=("sync_two_deep",)),
    # With drafts vLLM would schedule a negative number of tokens: its pipelines have none.
    "sync_two_deep": Feature(0.05, excludes=("spec_decode",)),
    "chunked_prefill": Feature(0.25),
    "long_prefill_threshold": Feature(0.15),
    "aborts": Feature(0.5),
    "preemption": Feature(0.3),
    "priority": Feature(0.25),
    "spec_decode": Feature(0.12),
    "eagle": Feature(0.08, needs=("spec_decode",), layouts=tuple(each for each in LAYOUTS if each != "chunked_local")),
    "lora": Feature(0.1),
    "cache_salt": Feature(0.1),
    "multimodal": Feature(0.08),
    "connector": Feature(0.06, excludes=("no_caching",), layouts=WITHOUT_MAMBA),
    "async_loads": Feature(0.04, needs=("connector",), layouts=WITHOUT_MAMBA),
    "invalid_blocks": Feature(0.06, needs=("connector",), layouts=SINGLE),
    "streaming": Feature(0.06, excludes=("structured_output",)),
    "kv_events": Feature(0.03),
    "cache_metrics": Feature(0.02),
    "no_caching": Feature(0.06, excludes=("retention",)),
    "context_parallel": Feature(0.06, layouts=("full",)),
    "retention": Feature(0.06, layouts=WINDOWS),
    "structured_output": Feature(0.06),
    "logprobs": Feature(0.08),
    "stop_tokens": Feature(0.12),
    "min_tokens": Feature(0.1),
    "repetition_detection": Feature(0.06),
    "eos": Feature(0.3),
    "several_clients": Feature(0.2),
    "finished_sets": Feature(0.15),
    "resets": Feature(0.15),
    "resets_of_running": Feature(0.08),
    "pauses": Feature(0.08),
    "v2_model_runner": Feature(0.08),
    "zeroing": Feature(0.1),
    "without_stats": Feature(0.1, excludes=("cache_metrics",)),
}

NAMES = (*LAYOUTS, *FEATURES)
"""All features: an episode has one of the layouts and some of the others."""


@dataclass
class Choice:
    """Features that were drawn so far, and the layouts that are left for them."""

    names: set[str]
    layouts: set[str]

    def add(self, name: str) -> bool:
        """Add a feature with those that it needs, unless they do not go with the others; whether they do."""
        if name in LAYOUTS:
            names, layouts = self.names, self.layouts & {name}
        else:
            added = {name, *FEATURES[name].needs}
            names = self.names | added
            layouts = self.layouts.intersection(*(FEATURES[each].layouts for each in added))
        excluded = {other for each in names for other in FEATURES[each].excludes}
        if not layouts or excluded & names:
            return False
        self.names, self.layouts = names, layouts
        return True


def draw_features(rng: random.Random, lead: str) -> tuple[str, frozenset[str]]:
    """Draw the features of an episode.

    Args:
        rng: Decides.
        lead: A layout or another feature that the episode must have.

    Returns:
        The layout, and the other features.
    """
    choice = Choice(set(), set(LAYOUTS))
    choice.add(lead)
    others = list(FEATURES)
    rng.shuffle(others)
    for name in others:
        if rng.random() < FEATURES[name].chance:
            choice.add(name)
    # In the order of the table: that of a set is not the same in every process.
    left = [layout for layout in LAYOUTS if layout in choice.layouts]
    (layout,) = rng.choices(left, [LAYOUTS[each] for each in left])
    return layout, frozenset(choice.names)
