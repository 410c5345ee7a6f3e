"""Replay of request traces through the KV-cache manager."""
