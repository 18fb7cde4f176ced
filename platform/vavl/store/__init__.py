"""The feature store: write, open, merge, publish."""
