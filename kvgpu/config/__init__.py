"""What an engine configures: specs of its caches, their groups, and which version of vLLM to behave like."""
