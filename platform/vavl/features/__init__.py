"""Extractors that turn media files into per-frame features, and the pipeline that runs them."""
