"""Traces: reading, the embedded workload, and the tokens of their prompts."""
