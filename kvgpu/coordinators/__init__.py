"""Coordinators: they serve one request in all cache groups."""
