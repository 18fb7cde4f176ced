"""VAVL: audio-visual emotion recognition from paired, unpaired and unlabeled clips."""
