"""The store and the plans of the disturbed runs: small, but with everything that a resumed run has to get right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from damaged_store import set_value, state_anew
from synthetic_store import write_synthetic_store

from vavl.store.store import FeatureStore
from vavl.training.settings import TrainingPlan

CLIPS, SPEAKERS, MOST_FRAMES = 400, 20, 12
BAD_CLIP = "clip0000003"
_BAD_VALUE = 3e38  # finite, also when it is normalized; its products are not


def make_store(folder: Path) -> Path:
    """Write the feature store that all runs share."""
    return write_synthetic_store(folder, CLIPS, SPEAKERS, MOST_FRAMES)


def make_bad_store(folder: Path) -> Path:
    """Write the same store with values in one training clip that its network turns into NaN.

    NaN itself would be refused as damage; the sums of the speaker stay fine.
    """
    make_store(folder)
    row = FeatureStore.open(folder).clip_ids("audio").to_pylist().index(BAD_CLIP)
    set_value(folder, "audio", row, _BAD_VALUE)
    return state_anew(folder)


def plan_of(folder: Path, store: Path, steps: int, hidden_share: float = 0.15, **training: Any) -> TrainingPlan:
    """Return a run of a network of a few thousand weights with dropout, views, averages and every objective.

    Args:
        folder: of the run.
        store: of the features.
        steps: of the run.
        hidden_share: of the clips that lose one modality, and as much again the other.
        training: other values of ``training``.
    """
    view = {"audio": {"noise": 0.2}, "video": {"noise": 0.2}}
    return TrainingPlan.model_validate(
        {
            "output_dir": folder,
            "data": {
                "store": store,
                "composition": {"batch_size": 14},
                "partitions": {
                    "labelled_fraction": 0.6,
                    "audio_only_share": hidden_share, "video_only_share": hidden_share,
                },
                "augmentation": {**view, "modality_dropout": 0.2},
            },
            "model": {
                "preset": "small", "width": 16, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2,
                "convolution_kernel": 5, "head_widths": (16, 12), "dropout": 0.2, "head_dropout": 0.3,
                "correlation_size": 4,
            },
            "objectives": {
                "hgr": {"weight": 0.1},
                "ladder": {"weight": 0.1},
                "pseudo_label": {"weight": 0.3, "teacher": "average", "ramp_steps": 30},
            },
            "training": {
                "max_epochs": 1000, "max_steps": steps, "average_decay": 0.9, "checkpoint_every_steps": 7,
                "checkpoint_every_epochs": 2, "report_every_steps": 1,
                "optimizer": {"learning_rate": 1e-3, "warmup_steps": 10, "final_share": 0.1},
                **training,
                "faults": {
                    "step_timeout_seconds": 30, "skipped_steps": 1000, "restarts_without_progress": 5,
                    "wait_for_workers_seconds": 120, "grow_after_seconds": 2, **training.get("faults", {}),
                },
            },
        }
    )  # fmt: skip
