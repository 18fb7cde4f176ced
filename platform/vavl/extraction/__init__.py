"""From a corpus card and media to a feature store."""
