"""Compiled steps over many rows."""
