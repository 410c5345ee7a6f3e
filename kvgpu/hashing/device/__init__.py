"""Hashing on devices."""
