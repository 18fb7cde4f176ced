"""Names of metrics that summaries and settings rely on."""

from __future__ import annotations

from vavl.metrics.names import CONDITIONS, SPLITS, metric_name


def test_names_are_split_condition_metric():
    names = [metric_name(split, condition, "accuracy") for split in SPLITS for condition in CONDITIONS]
    assert len(set(names)) == 9
    assert "test/audio_video/accuracy" in names
