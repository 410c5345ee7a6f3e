"""Compiles, before anything is served, what a process would else compile at its first calls."""
