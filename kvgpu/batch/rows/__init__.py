"""Rows of tracked requests."""
