"""Tokens for the hash ids of a trace: equal ids give equal tokens, and different ids give different tokens."""

import numpy as np
import numpy.typing as npt

from kvgpu.replay.traces.trace import Trace

VOCABULARY = 128_000
"""Token ids are drawn from 0 to VOCABULARY-1; their size matters to pickle and CBOR."""

_U64 = np.uint64


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Do one step of SplitMix64 (Steele, Lea, Flood 2014)."""
    x = x + _U64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> _U64(30))) * _U64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> _U64(27))) * _U64(0x94D049BB133111EB)
    return x ^ (x >> _U64(31))


def tokens_of(ids: npt.NDArray[np.int64], per_id: int) -> npt.NDArray[np.int64]:
    """Return `per_id` tokens for each id, int64 [len(ids) * per_id]."""
    places = ((ids * per_id)[:, None] + np.arange(per_id)).astype(np.uint64)
    return (_mix(places) % _U64(VOCABULARY)).astype(np.int64).ravel()


def prompt_tokens(trace: Trace, request: int) -> npt.NDArray[np.int32]:
    """Return the prompt of one request, int32 [length]."""
    length = int(trace.input_length[request])
    return tokens_of(trace.ids_of(request), trace.block_tokens)[:length].astype(np.int32)


def output_tokens(request: int, start: int, stop: int) -> list[int]:
    """Return the generated tokens [start, stop) of a request; no two requests generate the same tokens."""
    places = np.arange(start, stop, dtype=np.uint64) + (_U64(request + 1) << _U64(32))
    tokens: list[int] = (_mix(~places) % _U64(VOCABULARY)).astype(np.int64).tolist()
    return tokens
