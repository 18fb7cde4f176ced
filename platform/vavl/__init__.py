"""VAVL: audio-visual emotion recognition from paired, unpaired and unlabelled clips."""
