"""`Report`: what a soak has served, by feature, and what ended episodes."""

from collections import Counter
from typing import Any

from in_vllm.soak.episode import Episode
from in_vllm.soak.features import NAMES

ROWS = ("rows from arrays", "rows by vLLM", "answers from arrays", "answers by vLLM")
COLUMNS = ("episodes", "request-steps", *ROWS[:2])


class Report:
    """Adds up episodes."""

    def __init__(self) -> None:
        self.features: dict[str, Counter[str]] = {name: Counter() for name in NAMES}
        self.counts: Counter[str] = Counter()
        self.equal_exceptions: Counter[str] = Counter()
        self.listed_differences: Counter[str] = Counter()
        self.fallbacks: Counter[str] = Counter()
        self.cpu_seconds = 0.0

    @property
    def request_steps(self) -> int:
        """Requests that were scheduled, in all steps."""
        return self.counts["request-steps"]

    def add(self, episode: Episode) -> None:
        """Add an episode that has come to its end."""
        counts = Counter(episode.counts)
        counts["episodes"] += 1
        served = getattr(episode.schedulers[1], "served", None)
        if served is not None:
            rows = (served.array_rows, served.rows - served.array_rows)
            answers = (served.array_answers, served.answers - served.array_answers)
            counts.update(dict(zip(ROWS, rows + answers, strict=True)))
        self.counts.update(counts)
        for name in episode.scenario.all_features:
            self.features[name].update({column: counts[column] for column in COLUMNS})
        self.fallbacks.update(episode.fallbacks)
        if episode.ending is not None:
            (self.listed_differences if episode.is_listed else self.equal_exceptions)[episode.ending] += 1

    def plain(self) -> dict[str, Any]:
        """The report as data."""
        return {
            "features": {name: {column: row[column] for column in COLUMNS} for name, row in self.features.items()},
            "counts": dict(self.counts),
            "equal exceptions": dict(self.equal_exceptions),
            "listed differences": dict(self.listed_differences),
            "managers of vLLM in place of kvgpu's": dict(self.fallbacks),
            "CPU seconds": round(self.cpu_seconds, 1),
        }

    def text(self) -> str:
        """The report as tables."""
        width = max(map(len, NAMES))
        lines = [f"{'feature':{width}} {' '.join(f'{column:>16}' for column in COLUMNS)}   share"]
        for name, row in self.features.items():
            cells = " ".join(f"{row[column]:16,}" for column in COLUMNS)
            lines.append(f"{name:{width}} {cells} {row['request-steps'] / max(self.request_steps, 1):7.1%}")
        for title, counter in (
            ("counts", self.counts),
            ("episodes that both sides ended by the same exception", self.equal_exceptions),
            ("episodes that ended with a listed difference", self.listed_differences),
            ("managers of vLLM in place of kvgpu's", self.fallbacks),
        ):
            lines += ["", f"{title}:", *(f"{count:12,}  {name}" for name, count in sorted(counter.items()))]
            if not counter:
                lines.append(f"{0:12,}")
        lines += ["", f"CPU time: {self.cpu_seconds:,.0f} s"]
        return "\n".join(lines)
