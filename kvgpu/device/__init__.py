"""The block-hash table on devices, and tensors that go there."""
