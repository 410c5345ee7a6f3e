"""Full attention, and the caches that follow the same hit rule: MLA, quantised and hidden-state caches."""

import numpy as np

from kvgpu.groups.base import SingleTypeKVCacheManager


class FullAttentionManager(SingleTypeKVCacheManager):
    """Manages groups in which a token attends to all tokens before it; the hit is the leading run of cached blocks."""

    supports_context_parallel = True

    def get_num_common_prefix_blocks(self, running_request_id: str) -> int:
        """Return how many leading blocks have as many users as this group has requests (fact 51)."""
        blocks = self.req_to_blocks.get(running_request_id)
        if blocks is None:
            return 0
        ids = blocks.ids
        shared = self.block_pool.state.records["ref_cnt"][ids] == len(self.req_to_blocks)
        return len(ids) if shared.all() else int(np.argmin(shared))
