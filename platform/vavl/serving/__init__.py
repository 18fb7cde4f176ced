"""Registered models: how they are saved, found and asked."""
