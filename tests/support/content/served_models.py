"""Tiny untrained models with real extractors, as directories and as the registry serves them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vavl.extractors.extractor import audio_info, video_info
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.features import FeatureStatistics, ModalityInfo, Normalisation
from vavl.models.clips import TrainingProfile
from vavl.models.saved_model import ModalityDescription, ModelDescription, build_network, save_model
from vavl.models.settings import ClassTask, NetworkSettings, Task
from vavl.serving.registry import save_served_model
from vavl.tracking.mlflow_writer import import_mlflow

CLASSES = ("anger", "joy", "sadness")
AUDIO = AudioFeatureSettings(mel_bands=5)
VIDEO = VideoFeatureSettings()
AUDIO_WIDTH, VIDEO_WIDTH = AUDIO.mel_bands, video_info(VIDEO).width
MADE_UP = ModalityInfo("made up", "1", {}, None, 4)


def write_model(
    folder: Path,
    task: Task | None = None,
    audio: ModalityInfo = MADE_UP,
    video: ModalityInfo = MADE_UP,
    spread: float = 0.3,
    without: Sequence[str] = (),
    profiles: Mapping[str, TrainingProfile] = {},
    **changes: Any,
) -> Path:
    """Write a model of some thousand weights, all away from zero, so that clips differ in their predictions.

    Args:
        folder: to make.
        task: three classes by default.
        audio: what it is trained on; by default features that no media file gives.
        video: likewise.
        spread: deviation of what is added to the weights that training would start from.
        without: modalities that were not trained.
        profiles: what training saw of each modality.
        changes: of the description.
    """
    network = NetworkSettings(
        width=16, modality_blocks=1, shared_blocks=1, attention_heads=2, convolution_kernel=3, head_widths=(8, 8)
    )  # fmt: skip
    content: dict[str, Any] = {
        "network": network,
        "task": task or ClassTask(classes=CLASSES),
        **{
            name: _modality(name, info, profiles.get(name), trained=name not in without)
            for name, info in (("audio", audio), ("video", video))
        },
        "fusion_trained": not without,
        "speaker_normalisation": False,
        "max_frames": 100,
        "provenance": {},
    }
    description = ModelDescription(**{**content, **changes})
    torch.manual_seed(0)
    weights = build_network(description).state_dict()
    for value in weights.values():
        value.add_(spread * torch.randn_like(value))
    save_model(folder, weights, description)
    return folder


def write_media_model(folder: Path, task: Task | None = None, **changes: Any) -> Path:
    """Write a model that reads media with AUDIO and VIDEO."""
    return write_model(folder, task, audio_info(AUDIO), video_info(VIDEO), **changes)


def served(model_folder: Path, target: Path) -> Any:
    """Return the model as ``mlflow.pyfunc`` loads it from ``target``, which is made."""
    import_mlflow()
    import mlflow.pyfunc

    save_served_model(model_folder, target)
    return mlflow.pyfunc.load_model(str(target))


def values_of(answer: Any, names: tuple[str, ...] = tuple(f"probability_{name}" for name in CLASSES)) -> Any:
    """Return the (row, value) of an answer as numbers."""
    return answer[list(names)].to_numpy(dtype=float)


def _modality(name: str, info: ModalityInfo, profile: TrainingProfile | None, *, trained: bool) -> ModalityDescription:
    # Log spectra lie around -60 with a deviation of about 15.
    mean, std = (-60.0, 15.0) if name == "audio" and info is not MADE_UP else (0.0, 1.0)
    normalisation = Normalisation(np.full(info.width, mean, np.float32), np.full(info.width, std, np.float32))
    return ModalityDescription(
        width=info.width,
        statistics=FeatureStatistics("demo", name, info.provenance, normalisation).to_dict() if trained else {},
        trained=trained,
        extractor={"extractor": info.extractor, "version": info.version, "settings": dict(info.settings)},
        profile=profile,
    )
