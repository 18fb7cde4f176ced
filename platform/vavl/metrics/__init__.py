"""Scores of classes and attributes, under their documented names."""
