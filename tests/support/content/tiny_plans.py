"""Plans of runs that take a second, without Ray."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import yaml

from vavl.training.settings import TrainingPlan

_SIZES = {
    "width": 8, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2, "convolution_kernel": 3,
    "head_widths": (8, 8), "dropout": 0, "head_dropout": 0,
}  # fmt: skip


def tiny_plan(output_dir: Path, store: Path, **sections: Any) -> TrainingPlan:
    """Return a plan of three epochs of ten rows a step; ``sections`` are merged over it."""
    content: dict[str, Any] = {
        "output_dir": output_dir,
        "data": {"store": store, "composition": {"batch_size": 10}},
        "model": _SIZES,
        "training": {
            "launcher": "in_process", "engine": "torch", "max_epochs": 3,
            "optimizer": {"learning_rate": 3e-3},
        },
    }  # fmt: skip
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    return TrainingPlan.model_validate(content)


def write_small_training(path: Path, store: Path, **sections: Any) -> Path:
    """Write a training configuration of a small network as YAML, with these sections; return its path."""
    content = {
        "output_dir": "unused",
        "data": {"store": str(store), "composition": {"batch_size": 16}},
        "model": {"preset": "small", "width": 16, "modality_blocks": 1, "attention_heads": 2},
        **sections,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def own_tracking(folder: Path, tables: Path | None = None, **settings: Any) -> dict[str, Any]:
    """Return tracking settings with database and artifacts in a directory; ``tables`` is a database to begin with."""
    if tables is not None:
        shutil.copy(tables, folder / "mlflow.db")
    return {"uri": f"sqlite:///{folder}/mlflow.db", "artifact_location": str(folder / "artifacts"), **settings}
