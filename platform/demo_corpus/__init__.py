"""A rendered corpus of talking cartoon faces, so that the whole platform runs without a download."""
