"""Predictions of many clips from media or from a store, and the course of a prediction within one clip."""
