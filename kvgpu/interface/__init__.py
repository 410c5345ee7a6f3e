"""Parts of the interface of `KVCacheManager`, by whom they serve."""
