"""What is known of a pretrained speech network before its weights are read."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from vavl.errors import ConfigError
from vavl.extractors.audio_settings import SpeechTransformerSettings
from vavl.extractors.chunks import FrameGrid
from vavl.extractors.pretrained_files import ModelFiles, find_model, transformers_module

KEY = "features.audio.backbone"
KINDS = ("wav2vec2", "wavlm", "hubert")

_PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True)
class SpeechModel:
    """A speech network on this machine.

    Attributes:
        files: its files.
        kind: one of KINDS.
        grid: where its frames lie; its sample rate.
        is_normalised: whether a clip is brought to mean 0 and deviation 1 before it goes in.
        layers: number of transformer blocks.
        width: channels of a frame.
    """

    files: ModelFiles
    kind: str
    grid: FrameGrid
    is_normalised: bool
    layers: int
    width: int


def find_speech_model(settings: SpeechTransformerSettings) -> SpeechModel:
    """Find the files of the settings' model and read its two configurations.

    Raises:
        ConfigError: transformers or a file is missing (the message says which folder to fill), the model is
            of another type, or it has not as many layers as the settings name.
    """
    library = transformers_module()
    files = find_model(settings.backbone, KEY, also=(_PREPROCESSING,))
    kind = str(files.read_json("config.json").get("model_type"))
    if kind not in KINDS or settings.kind not in (None, kind):
        raise ConfigError(
            str(files.folder / "config.json"), "model_type", f"{kind}, not {settings.kind or ', '.join(KINDS)}",
            "give the folder of such a model",
        )  # fmt: skip
    try:
        config = library.AutoConfig.from_pretrained(
            files.folder, local_files_only=True, trust_remote_code=False
        )
        grid = _grid(config, int(files.read_json(_PREPROCESSING)["sampling_rate"]))
        is_normalised = bool(files.read_json(_PREPROCESSING)["do_normalize"])
    except (KeyError, TypeError, ValueError) as fault:
        raise ConfigError(
            str(files.folder), KEY, f"config.json or {_PREPROCESSING} is not that of a speech model: {fault!r}",
            "get the model's files again",
        ) from fault  # fmt: skip
    blocks = int(config.num_hidden_layers)
    if settings.layers[1] > blocks:
        raise ConfigError(
            "features.audio",
            "layers",
            f"{list(settings.layers)}, but the model has {blocks}",
            "name layers it has",
        )
    return SpeechModel(files, kind, grid, is_normalised, blocks, int(config.hidden_size))


def _grid(config: Any, rate_hz: int) -> FrameGrid:
    """Work out what samples a frame of the convolutions is made of; they have no padding."""
    kernels, strides = list(config.conv_kernel), list(config.conv_stride)
    receptive = 1 + sum((kernel - 1) * math.prod(strides[:place]) for place, kernel in enumerate(kernels))
    if rate_hz < 1:
        raise ValueError(f"sampling_rate {rate_hz}")
    return FrameGrid(rate_hz, math.prod(strides), receptive)
