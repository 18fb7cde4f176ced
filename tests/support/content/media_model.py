"""A small model with random weights that reads media with the platform's default extractors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from vavl.extractors.extractor import audio_info, video_info
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.features import FeatureStatistics, ModalityInfo, Normalisation
from vavl.models.clips import TrainingProfile
from vavl.models.saved_model import ModalityDescription, ModelDescription, build_network, save_model
from vavl.models.settings import ClassTask, NetworkSettings, Task

CLASSES = ("calm", "glad", "mad")
NETWORK = NetworkSettings.model_validate(
    {
        "width": 16, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2, "convolution_kernel": 5,
        "head_widths": (16, 12), "dropout": 0, "head_dropout": 0,
    }
)  # fmt: skip
MEDIA = {"audio": audio_info(AudioFeatureSettings()), "video": video_info(VideoFeatureSettings())}
_CENTRES = {"audio": (-50.0, 20.0), "video": (0.1, 0.3)}


def write_media_model(
    folder: Path,
    infos: dict[str, ModalityInfo] = MEDIA,
    task: Task | None = None,
    without: tuple[str, ...] = (),
    profiles: Mapping[str, TrainingProfile] = {},
    **changes: object,
) -> Path:
    """Save a model of the features that ``infos`` describe; sides in ``without`` are not trained."""
    sides = {name: _side(name, info, profiles.get(name), trained=name not in without) for name, info in infos.items()}
    description = ModelDescription.model_validate(
        {
            "network": NETWORK,
            "task": task or ClassTask(classes=CLASSES),
            **sides,
            "fusion_trained": not without,
            "speaker_normalisation": False,
            "max_frames": 200,
            "provenance": {"corpus": "small", "protocol": "first speakers", "fold": 0},
            **changes,
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(7)
        network = build_network(description)
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(0.2 * torch.randn_like(parameter))
    save_model(folder, network.state_dict(), description)
    return folder


def _side(name: str, info: ModalityInfo, profile: TrainingProfile | None, *, trained: bool) -> ModalityDescription:
    mean, std = _CENTRES[name]
    normalisation = Normalisation(
        np.full(info.width, mean, dtype=np.float32), np.full(info.width, std, dtype=np.float32)
    )
    statistics = FeatureStatistics("small", name, info.provenance, normalisation).to_dict()
    provenance = {key: asdict(info)[key] for key in ("extractor", "version", "settings")}
    return ModalityDescription(
        width=info.width,
        statistics=statistics if trained else {},
        trained=trained,
        extractor=provenance,
        profile=profile,
    )
