"""Stand-ins for structured output: a grammar that is decided by tokens alone, and the manager that asks it."""

from typing import Any

import numpy as np

MODULUS = 211
FORBIDDEN = 13
"""A draft token that no grammar accepts."""


class Grammar:
    """Accepts almost everything: it rejects a run of tokens whose sum is an unlucky number."""

    def __init__(self) -> None:
        self.total = 0

    def accept_tokens(self, request_id: str, tokens: list[int]) -> bool:
        """Whether an answer may go on with these tokens."""
        self.total += sum(tokens)
        return self.total % MODULUS != 0

    def validate_tokens(self, tokens: list[int]) -> list[int]:
        """The leading draft tokens that the grammar accepts."""
        accepted = tokens.index(FORBIDDEN) if FORBIDDEN in tokens else len(tokens)
        return tokens[:accepted]


class GrammarManager:
    """What a scheduler wants of vLLM's `StructuredOutputManager`."""

    def should_advance(self, request: Any) -> bool:
        """Whether the grammar of a request is told of new tokens."""
        return request.use_structured_output

    def accept_tokens(self, request: Any, tokens: list[int]) -> bool:
        """Since 0.24 a scheduler asks this of every request."""
        if not request.use_structured_output:
            return True
        return request.structured_output_request.grammar.accept_tokens(request.request_id, tokens)

    def validate_tokens(self, request: Any, tokens: list[int]) -> list[int]:
        """Since 0.24 a scheduler asks this of every request."""
        if not request.use_structured_output:
            return tokens
        return request.structured_output_request.grammar.validate_tokens(tokens)

    def grammar_bitmask(self, requests: dict[str, Any], names: list[str], drafts: dict[str, list[int]]) -> Any:
        """A row for each request: what it was decided from, so that two masks are equal only if that was equal."""
        rows = [
            [requests[name].num_tokens, requests[name].structured_output_request.grammar.total, *drafts.get(name, [])]
            for name in names
        ]
        width = max(map(len, rows))
        return np.array([row + [0] * (width - len(row)) for row in rows], np.int32)


def compile_grammar(request: Any) -> bool:
    """Give a request that waits for its grammar one; whether it waited."""
    structured = request.structured_output_request
    if structured is None or structured.grammar is not None:
        return False
    structured.grammar = Grammar()
    return True
