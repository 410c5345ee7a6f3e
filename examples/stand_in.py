"""`StandIn`: an executor of vLLM without a model, whose tokens tell whether it was told the right blocks.

A slot of its memory holds a number made from a token and from the number in the slot before, as keys and values of a
model depend on all tokens before them. The next token is a hash of the numbers that it reads back through the block
tables, so that a wrong block makes a wrong token. It knows nothing but what vLLM tells a worker.
"""

import zlib
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from vllm.v1.executor import Executor
from vllm.v1.kv_cache_interface import FullAttentionSpec, KVCacheConfig, SlidingWindowSpec
from vllm.v1.outputs import EMPTY_MODEL_RUNNER_OUTPUT, ModelRunnerOutput

VOCABULARY = 2048
BLOCK_SIZE = 16
MEMORY_BYTES = 2**30
"""More than is used: the number of blocks is an option of the engine."""
FACTOR, PRIME = 0x9E3779B97F4A7C15, 2**61 - 1


def numbers(before: int, tokens: Sequence[int]) -> list[int]:
    """What is stored for tokens that follow a slot with the number `before`. O(tokens)."""
    made = []
    for token in tokens:
        before = (before * FACTOR + token + 1) % PRIME
        made.append(before)
    return made


def next_token(read: list[Any]) -> int:
    """The token that follows, from the numbers that were read in each group. O(numbers)."""
    return zlib.crc32(np.concatenate(read).tobytes()) % VOCABULARY


def tokens_without_cache(
    prompt: list[int], most: int, windows: Sequence[int | None], stop_token_ids: Sequence[int]
) -> list[int]:
    """What a request generates where nothing is shared, evicted or cut into chunks: the truth. O(tokens)."""
    stored = [numbers(group, prompt) for group in range(len(windows))]
    generated: list[int] = []
    while len(generated) < most and not (generated and generated[-1] in stop_token_ids):
        read = [np.array(each[-window:] if window else each) for each, window in zip(stored, windows, strict=True)]
        generated.append(next_token(read))
        for each in stored:
            each += numbers(each[-1], generated[-1:])
    return generated


@dataclass
class Row:
    """A request as a worker knows it: its tokens, and a block table for each group."""

    tokens: list[int]
    num_prompt: int
    tables: list[list[int]]


class StandIn(Executor):
    """Computes the steps of an engine core at once, and answers as an asynchronous executor does.

    Options are in vLLM's `additional_config`: "window", the tokens of a second group with a sliding window (0: there is
    none), and "plant", whether it gets one block table wrong.

    Attributes:
        cached_tokens: Tokens that it was told to find in its memory when a request came, or came back. vLLM's own
            statistics also count what a request finds that must go on waiting.
        chunks: Times that it computed less than what was missing of a request.
        new_blocks: Blocks that it was told to write to.
        preemptions: Times that a request was resumed after it had lost its blocks.
        planted: The request whose table was made wrong.
    """

    def _init_executor(self) -> None:
        options = self.vllm_config.additional_config
        self.windows: list[int | None] = [None, options["window"]] if options["window"] else [None]
        self.cached_tokens = self.chunks = self.new_blocks = self.preemptions = 0
        self.planted: str | None = None
        self._plants: bool = options["plant"]
        self._rows: dict[str, Row] = {}
        self._answer = EMPTY_MODEL_RUNNER_OUTPUT

    def get_kv_cache_specs(self) -> list[dict[str, Any]]:
        """A layer for each group."""
        heads: dict[str, Any] = {
            "block_size": BLOCK_SIZE,
            "num_kv_heads": 1,
            "head_size": 1,
            "dtype": torch.float32,  # with a key and a value, the 8 bytes of a number
        }
        specs = [
            SlidingWindowSpec(sliding_window=window, **heads) if window else FullAttentionSpec(**heads)
            for window in self.windows
        ]
        return [{f"layer{place}": spec for place, spec in enumerate(specs)}]

    def determine_available_memory(self) -> list[int]:
        return [MEMORY_BYTES]

    def initialize_from_config(self, kv_cache_configs: list[KVCacheConfig]) -> None:
        """Make the memory. All groups share it, as they share vLLM's tensors. O(slots)."""
        (config,) = kv_cache_configs
        # vLLM may put groups in another order than layers.
        specs = [group.kv_cache_spec for group in config.kv_cache_groups]
        self.windows = [getattr(spec, "sliding_window", None) for spec in specs]
        self._memory = np.zeros(config.num_blocks * BLOCK_SIZE, np.int64)

    def execute_model(self, scheduler_output: Any, non_block: bool = False) -> Any:
        """Compute a step; `sample_tokens` gives the answer, unless there is nothing to compute. O(context)."""
        self._take_over(scheduler_output)
        # In this order a request finds what others have stored in the same step, if it shares their new blocks.
        scheduled = scheduler_output.num_scheduled_tokens
        tokens = [self._compute(self._rows[name], self._starts[name], count) for name, count in scheduled.items()]
        self._answer = ModelRunnerOutput(
            req_ids=list(scheduled),
            req_id_to_index={name: place for place, name in enumerate(scheduled)},
            sampled_token_ids=tokens,
        )
        return self._reply(None if scheduled else EMPTY_MODEL_RUNNER_OUTPUT, non_block)

    def sample_tokens(self, grammar_output: Any, non_block: bool = False) -> Any:
        """The answer to the last step."""
        return self._reply(self._answer, non_block)

    def _take_over(self, told: Any) -> None:
        """Follow what the scheduler says of requests. O(requests, and blocks of those that are new or resumed)."""
        for name in told.finished_req_ids:
            self._rows.pop(name, None)
        cached = told.scheduled_cached_reqs
        self._starts = dict(zip(cached.req_ids, cached.num_computed_tokens, strict=True))
        for new in told.scheduled_new_reqs:
            row = Row(list(new.prompt_token_ids), len(new.prompt_token_ids), [])
            self._rows[new.req_id], self._starts[new.req_id] = row, new.num_computed_tokens
            self._replace_tables(new.req_id, new.block_ids)
        for name, blocks, num_outputs in zip(
            cached.req_ids, cached.new_block_ids, cached.num_output_tokens, strict=True
        ):
            row = self._rows[name]
            del row.tokens[row.num_prompt + num_outputs :]
            if name in cached.resumed_req_ids:
                self.preemptions += 1
                self._replace_tables(name, blocks)
            elif blocks is not None:
                for table, ids in zip(row.tables, blocks, strict=True):
                    table += ids
                    self.new_blocks += len(ids)

    def _replace_tables(self, name: str, blocks: Sequence[list[int]]) -> None:
        """Take over all blocks of a request, of which some may be full already. O(blocks)."""
        num_found = self._starts[name] // BLOCK_SIZE
        tables = [list(ids) for ids in blocks]
        if self._plants and self.planted is None and num_found > 1:
            table = tables[self.windows.index(None)]
            table[0], table[1] = table[1], table[0]
            self.planted = name
        self._rows[name].tables = tables
        self.cached_tokens += self._starts[name]
        self.new_blocks += sum(len(table) - num_found for table in tables)

    def _compute(self, row: Row, start: int, count: int) -> list[int]:
        """Store so many tokens from `start` on, and return the next one, if all that are known are stored now."""
        end = start + count
        positions, read = np.arange(end), []
        for group, (table, window) in enumerate(zip(row.tables, self.windows, strict=True)):
            slots = np.array(table)[positions // BLOCK_SIZE] * BLOCK_SIZE + positions % BLOCK_SIZE
            before = int(self._memory[slots[start - 1]]) if start else group
            self._memory[slots[start:]] = numbers(before, row.tokens[start:end])
            read.append(self._memory[slots[-window:] if window else slots])
        if end < len(row.tokens):
            self.chunks += 1
            return []
        row.tokens.append(next_token(read))
        return row.tokens[-1:]

    def _reply(self, answer: Any, non_block: bool) -> Any:
        if not non_block:
            return answer
        future: Future[Any] = Future()
        future.set_result(answer)
        return future

    def collective_rpc(self, method: Any, *args: Any, **options: Any) -> Any:
        """Refuse what a worker with a model would do.

        Raises:
            NotImplementedError: Always.
        """
        raise NotImplementedError(f"there is no worker for {method}")

    def check_health(self) -> None:
        """Nothing can break."""

    def shutdown(self) -> None:
        """There is nothing to end."""

    @classmethod
    def supports_async_scheduling(cls) -> bool:
        return True
