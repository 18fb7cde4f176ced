"""Corpora as they come: card, discovery, labels, splits, manifest."""
