"""Losses as pure functions, and their weighted sum."""
