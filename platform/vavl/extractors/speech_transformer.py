"""Hidden states of pretrained speech networks: wav2vec 2.0, WavLM and HuBERT, with frozen weights."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vavl.errors import ClipError, ConfigError
from vavl.extractors.extracted import Extracted
from vavl.extractors.pretrained import (
    ModelFiles,
    choose_device,
    find_model,
    inference,
    load_model,
    recorded_settings,
    transformers_module,
)
from vavl.extractors.settings import SpeechTransformerSettings
from vavl.features import ModalityInfo
from vavl.media.sound import read_sound


@dataclass(frozen=True)
class FrameGrid:
    """Frames of a network that reads samples without padding.

    Attributes:
        rate_hz: of the samples.
        stride: samples from one frame to the next.
        receptive: samples that a frame is made of.
    """

    rate_hz: int
    stride: int
    receptive: int

    def frames(self, samples: int) -> int:
        """Return the number of frames of so many samples."""
        return max(0, (samples - self.receptive) // self.stride + 1)

    def span(self, start: int, frames: int) -> slice:
        """Return the samples of which exactly the frames from ``start`` on are made."""
        first = start * self.stride
        return slice(first, first + self.receptive + (frames - 1) * self.stride)

    def times(self, frames: int) -> NDArray[np.float32]:
        """Return the middle of what each frame is made of, in seconds, (frame,)."""
        middles = (np.arange(frames) * self.stride + self.receptive / 2) / self.rate_hz
        return middles.astype(np.float32)


def chunk_starts(frames: int, length: int, overlap: int) -> list[int]:
    """Return the first frame of each chunk, evenly spaced; the last chunk ends with the clip.

    Args:
        frames: of the clip.
        length: of a chunk, in frames; a shorter clip is one chunk.
        overlap: least common frames of neighbors, below ``length``.
    """
    if frames <= length:
        return [0]
    gaps = math.ceil((frames - length) / (length - overlap))
    return [round(gap * (frames - length) / gaps) for gap in range(gaps + 1)]


def joined_chunks(chunks: NDArray[np.float32], starts: list[int], frames: int, overlap: int) -> NDArray[np.float32]:
    """Put chunks together: where they overlap the weight goes over from one to the next in a straight line.

    A frame near the border of a chunk, where the network saw little of what is around it, counts little.

    Args:
        chunks: (chunk, time, channel), of equal length.
        starts: frame of the clip at which each begins.
        frames: of the clip.
        overlap: frames over which a chunk fades in and out, except at the ends of the clip.

    Returns:
        (time, channel).
    """
    if len(starts) == 1:
        return np.asarray(chunks[0], np.float32)
    length = chunks.shape[1]
    ramp = np.minimum(1.0, np.arange(1, length + 1) / (overlap + 1))
    total = np.zeros((frames, chunks.shape[2]))
    weights = np.zeros((frames, 1))
    for values, start in zip(chunks, starts, strict=True):
        fade_in = ramp if start > 0 else np.ones(length)
        fade_out = ramp[::-1] if start + length < frames else np.ones(length)
        weight = (fade_in * fade_out)[:, None]
        total[start : start + length] += weight * values
        weights[start : start + length] += weight
    return (total / weights).astype(np.float32)


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
        ConfigError: transformers or a file is missing (the message says which directory to fill), the model is
            of another type, or it has not as many layers as the settings name.
    """
    library = transformers_module()
    files = find_model(settings.backbone, KEY, also=(_PREPROCESSING,))
    kind = str(files.read_json("config.json").get("model_type"))
    if kind not in KINDS or settings.kind not in (None, kind):
        raise ConfigError(
            str(files.folder / "config.json"), "model_type", f"{kind}, not {settings.kind or ', '.join(KINDS)}",
            "give the directory of such a model",
        )  # fmt: skip
    try:
        config = library.AutoConfig.from_pretrained(files.folder, local_files_only=True, trust_remote_code=False)
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
            "features.audio", "layers", f"{list(settings.layers)}, but the model has {blocks}", "name layers it has"
        )
    return SpeechModel(files, kind, grid, is_normalised, blocks, int(config.hidden_size))


def _grid(config: Any, rate_hz: int) -> FrameGrid:
    """Work out what samples a frame of the convolutions is made of; they have no padding."""
    kernels, strides = list(config.conv_kernel), list(config.conv_stride)
    receptive = 1 + sum((kernel - 1) * math.prod(strides[:place]) for place, kernel in enumerate(kernels))
    if rate_hz < 1:
        raise ValueError(f"sampling_rate {rate_hz}")
    return FrameGrid(rate_hz, math.prod(strides), receptive)


NAME = "speech_transformer"
VERSION = "1"

# A vector that stands for masked frames during pretraining; models saved without it compute the same.
_NEVER_USED = "masked_spec_embed"
_TINY = 1e-7

Samples = NDArray[np.float32]


class SpeechTransformerExtractor:
    """Runs a speech network over clips.

    Args:
        settings: model, layers and chunks.

    Raises:
        ConfigError: the model is not there, not whole or of another type (see ``find_speech_model``).
    """

    def __init__(self, settings: SpeechTransformerSettings) -> None:
        self._settings = settings
        self._model = find_speech_model(settings)
        self._network = load_model(self._model.files, settings.backbone, KEY, may_lack=_NEVER_USED)
        self._device = choose_device(settings.backbone, KEY)
        self._layers = _LayerMean(self._network.encoder, *settings.layers)

    def extract(self, path: Path) -> Extracted:
        """Return the features of a file.

        The clip is resampled to the network's rate and normalized as a whole, if the network's preprocessing
        says so. A clip longer than ``chunk_s`` is cut into chunks that are all equally long, so that nothing
        is padded, and that fade into each other where they overlap.

        Raises:
            ClipError: the sound cannot be read (see ``vavl.media.sound.read_sound``) or gives no frame.
        """
        grid, settings = self._model.grid, self._settings
        sound = read_sound(path, grid.rate_hz, settings.longest_clip_s)
        frames = grid.frames(len(sound.waveform))
        if frames == 0:
            raise ClipError(
                str(path), "audio", f"{len(sound.waveform)} samples at {grid.rate_hz} Hz give no frame: "
                f"it takes {grid.receptive}", "leave the clip out",
            )  # fmt: skip
        waveform = normalised(sound.waveform) if self._model.is_normalised else sound.waveform
        length = min(frames, max(2, grid.frames(round(settings.chunk_s * grid.rate_hz))))
        overlap = min(length // 2, round(settings.overlap_s * grid.rate_hz / grid.stride))
        starts = chunk_starts(frames, length, overlap)
        # A clip in one piece goes in whole, with the samples after its last frame: some networks normalize over them.
        spans = [grid.span(start, length) for start in starts] if len(starts) > 1 else [slice(None)]
        chunks = [
            self._hidden(np.stack([waveform[span] for span in spans[place : place + settings.batch_size]]))
            for place in range(0, len(spans), settings.batch_size)
        ]
        values = joined_chunks(np.concatenate(chunks), starts, frames, overlap)
        return Extracted(values, grid.times(frames), note=sound.note, facts=sound.facts)

    def _hidden(self, waveforms: Samples) -> Samples:
        """Return the mean of the chosen layers (chunk, time, channel) of waveforms (chunk, sample)."""
        with inference(self._settings.backbone, self._device):
            self._network(torch.from_numpy(waveforms).to(self._device))
            hidden: Samples = self._layers.take().float().cpu().numpy()
        return hidden


class _LayerMean:
    """Adds up what the chosen layers of an encoder put out, while it runs.

    Layer i is the output of block i, layer 0 the input of the first block, and the last layer is what the
    whole encoder puts out: in networks that normalize before each block, its final norm included. Blocks
    above the last chosen one are taken out.

    Args:
        encoder: of a speech network of transformers.
        first: layer.
        last: layer.
    """

    def __init__(self, encoder: Any, first: int, last: int) -> None:
        self._count = last - first + 1
        self._sum: Tensor | None = None
        blocks: nn.ModuleList = encoder.layers
        is_whole = last == len(blocks)
        encoder.layers = blocks[: max(1, last)]
        if first == 0:
            encoder.layers[0].register_forward_pre_hook(lambda _, inputs: self._add(inputs[0]))
        for number, block in enumerate(encoder.layers, start=1):
            if first <= number <= last and not (is_whole and number == last):
                block.register_forward_hook(lambda _, __, output: self._add(output))
        if is_whole and last > 0:
            encoder.register_forward_hook(lambda _, __, output: self._add(output[0]))

    def take(self) -> Tensor:
        """Return the mean of the layers of the last run, and forget it."""
        assert self._sum is not None
        total, self._sum = self._sum, None
        return total / self._count

    def _add(self, output: Tensor | tuple[Tensor, ...]) -> None:
        hidden = output[0] if isinstance(output, tuple) else output
        self._sum = hidden.float() if self._sum is None else self._sum + hidden.float()


def normalised(waveform: Samples) -> Samples:
    """Bring a clip (sample,) to mean 0 and deviation 1, as Wav2Vec2FeatureExtractor does."""
    around = waveform - waveform.mean()
    scaled: Samples = (around / np.sqrt(waveform.var() + _TINY)).astype(np.float32)
    return scaled


def speech_transformer_info(settings: SpeechTransformerSettings) -> ModalityInfo:
    """Return the provenance of the features: type of model, layers, revision and SHA-256 of every file.

    Raises:
        ConfigError: as ``find_speech_model``.
    """
    model = find_speech_model(settings)
    of_kind = settings.model_copy(update={"kind": model.kind})
    return ModalityInfo(
        extractor=NAME,
        version=VERSION,
        settings=recorded_settings(of_kind, {"backbone": model.files}),
        frame_rate_hz=model.grid.rate_hz / model.grid.stride,
        width=model.width,
    )
