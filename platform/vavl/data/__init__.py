"""Corpus cards, manifests, feature stores, partitions, batches and the demo corpus."""
