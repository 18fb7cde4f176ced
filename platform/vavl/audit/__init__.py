"""Checks of a corpus before training: leaks, labels, media; their record, their report and the gate."""
