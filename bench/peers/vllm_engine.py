"""vLLM with either manager, for benchmarks inside it: the tests have its engine without a GPU."""

import random
import sys
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2] / "tests"))

SIZE = 16
VOCABULARY = 50_000
WINDOW = 1024


def tokens(rng: random.Random, count: int) -> list[int]:
    """Token ids at random."""
    return [rng.randrange(VOCABULARY) for _ in range(count)]


class Engine:
    """What both sides need.

    Attributes:
        name: Of vLLM, with its version.
        engines: The module that makes schedulers, configurations and requests.
        makers: Make vLLM's manager, and kvgpu's through the plug-in.
        hashers: Functions that hash requests, vLLM's and that of the plug-in.
        counts_shared_blocks: Whether its scheduler asks for the leading blocks that all requests share.
        specs: Specs of vLLM, by kind of model.

    Raises:
        ImportError: vLLM is missing, or is one that kvgpu does not serve.
    """

    def __init__(self) -> None:
        import vllm
        from in_vllm import engines
        from vllm.utils.hashing import sha256
        from vllm.v1.core import kv_cache_utils
        from vllm.v1.core.kv_cache_manager import KVCacheManager

        from kvgpu.vllm import hasher
        from kvgpu.vllm.capabilities import behaviour_of_vllm
        from kvgpu.vllm.manager import make_manager

        self.name = f"vLLM {vllm.__version__}"
        self.engines = engines
        behaviour = behaviour_of_vllm()
        if behaviour is None:
            raise ImportError(f"kvgpu does not serve {self.name}: both sides would be vLLM's")
        self.counts_shared_blocks = behaviour.counts_shared_blocks
        self.makers = (KVCacheManager, make_manager)
        self.specs = {"full": (engines.full(),), "full + window": (engines.full(), engines.window(tokens=WINDOW))}
        self._hasher = engines.hasher_of_vllm()
        self.hashers = tuple(module.get_request_block_hasher(SIZE, sha256) for module in (kv_cache_utils, hasher))

    def request(self, name: str, prompt: list[int], max_tokens: int) -> Any:
        """A request of vLLM that generates as long as it is asked to."""
        return self.engines.make_request(name, list(prompt), self._hasher, max_tokens)
