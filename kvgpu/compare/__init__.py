"""Runs side by side, from what replays have written as JSON."""
