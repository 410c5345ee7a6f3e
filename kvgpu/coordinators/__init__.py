"""Coordinators: one request over all cache groups."""
