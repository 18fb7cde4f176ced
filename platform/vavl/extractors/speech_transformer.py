"""Hidden states of pretrained speech networks: wav2vec 2.0, WavLM and HuBERT, with frozen weights."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vavl.errors import ClipError
from vavl.extractors.audio_settings import SpeechTransformerSettings
from vavl.extractors.chunks import chunk_starts, joined_chunks
from vavl.extractors.extracted import Extracted
from vavl.extractors.pretrained import choose_device, inference, load_model, recorded_settings
from vavl.extractors.speech_model import KEY, find_speech_model
from vavl.features import ModalityInfo
from vavl.media.sound import read_sound

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

        The clip is resampled to the network's rate and normalised as a whole, if the network's preprocessing
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
        # A clip in one piece goes in whole, with the samples after its last frame: some networks normalise over them.
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
    whole encoder puts out: in networks that normalise before each block, its final norm included. Blocks
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
