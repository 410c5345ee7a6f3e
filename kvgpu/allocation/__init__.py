"""Slots for one request."""
