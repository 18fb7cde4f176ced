"""Measuring a saved model on the clips of a store, whole and degraded."""
