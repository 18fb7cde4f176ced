"""Frozen settings, YAML with overrides, atomic files and the command line of a job."""
