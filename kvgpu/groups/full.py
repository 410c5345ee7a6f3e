"""Full attention, and what hits like it: MLA, quantised and hidden-state caches."""

import numpy as np

from kvgpu.groups.base import SingleTypeKVCacheManager


class FullAttentionManager(SingleTypeKVCacheManager):
    """Every block from the start counts; the hit is the leading run."""

    supports_context_parallel = True

    def get_num_common_prefix_blocks(self, running_request_id: str) -> int:
        """Leading blocks that are used by as many as there are requests in this group (fact 51)."""
        blocks = self.req_to_blocks.get(running_request_id)
        if blocks is None:
            return 0
        ids = blocks.ids
        shared = self.block_pool.state.records["ref_cnt"][ids] == len(self.req_to_blocks)
        return len(ids) if shared.all() else int(np.argmin(shared))
