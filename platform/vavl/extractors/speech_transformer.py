"""Hidden states of pretrained speech networks with frozen weights: wav2vec 2.0, WavLM, HuBERT, Whisper's encoder."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vavl.errors import ClipError, ConfigError
from vavl.extractors import log_mel
from vavl.extractors.extracted import Extracted
from vavl.extractors.pretrained import (
    AGAIN,
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
    """Where the frames of a network lie."""

    rate_hz: int  # of the samples
    stride: int  # samples from one frame to the next
    receptive: int  # samples that a frame is made of; those of a stride where the network pads (Whisper)
    # frames of the one length of input that the network takes (Whisper): what is shorter is filled up with
    # silence on its left, and the frames of a clip end with it. None takes any length.
    window: int | None = None

    def frames(self, samples: int) -> int:
        """Return the number of frames of so many samples."""
        return max(0, (samples - self.receptive) // self.stride + 1)

    def span(self, start: int, frames: int) -> slice:
        """Return the samples of which exactly the frames from ``start`` on are made."""
        first = start * self.stride
        return slice(first, first + self.receptive + (frames - 1) * self.stride)

    def before(self, samples: int) -> int:
        """Return the samples at the start of a clip that belong to no frame."""
        return 0 if self.window is None else samples % self.stride

    def times(self, samples: int) -> NDArray[np.float32]:
        """Return the middle of what each frame of a clip is made of, in seconds, (frame,)."""
        # Whisper pads its spectra and convolutions by half of what they see: a frame is centered where it begins.
        first = self.receptive / 2 if self.window is None else self.before(samples)
        return ((np.arange(self.frames(samples)) * self.stride + first) / self.rate_hz).astype(np.float32)

    def filled(self, waveform: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return a clip (sample,) that fills the window, with silence on its left if it is shorter."""
        missing = 0 if self.window is None else max(0, self.window * self.stride - len(waveform))
        return np.pad(waveform, (missing, 0)) if missing else waveform

    def chunk(self, seconds: float) -> int:
        """Return the frames of a chunk of a long clip: those of the window, or of so many seconds."""
        return self.window or max(2, self.frames(round(seconds * self.rate_hz)))


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
KINDS = ("wav2vec2", "wavlm", "hubert", "whisper")

_PREPROCESSING = "preprocessor_config.json"


@dataclass(frozen=True)
class SpeechModel:
    """A speech network on this machine."""

    files: ModelFiles  # its files
    kind: str  # one of KINDS
    grid: FrameGrid  # where its frames lie; its sample rate
    is_normalised: bool  # whether a clip is brought to mean 0 and deviation 1 before it goes in
    layers: int  # number of transformer blocks
    width: int  # channels of a frame


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
            str(files.directory / "config.json"), "model_type", f"{kind}, not {settings.kind or ', '.join(KINDS)}",
            "give the directory of such a model",
        )  # fmt: skip
    try:
        config = library.AutoConfig.from_pretrained(files.directory, local_files_only=True, trust_remote_code=False)
        preprocessing = files.read_json(_PREPROCESSING)
        grid = _grid(config, preprocessing)
        # What the library takes where the file says nothing.
        is_normalised = bool(preprocessing.get("do_normalize", kind != "whisper"))
    except (KeyError, TypeError, ValueError) as fault:
        problem = f"config.json or {_PREPROCESSING} is not that of a speech model: {fault!r}"
        raise ConfigError(str(files.directory), KEY, problem, AGAIN) from fault
    blocks = int(config.num_hidden_layers)
    if settings.layers[1] > blocks:
        raise ConfigError(
            "features.audio", "layers", f"{list(settings.layers)}, but the model has {blocks}", "name layers it has"
        )
    if grid.window is not None and settings.overlap_s > (window_s := grid.window * grid.stride / grid.rate_hz) / 2:
        raise ConfigError(
            "features.audio", "overlap_s", f"{settings.overlap_s:g} s, more than half of the model's window of "
            f"{window_s:g} s", f"say {window_s / 2:g} or less",
        )  # fmt: skip
    return SpeechModel(files, kind, grid, is_normalised, blocks, int(config.hidden_size))


def _grid(config: Any, preprocessing: Mapping[str, Any]) -> FrameGrid:
    """Work out what samples a frame is made of; only Whisper's convolutions have padding."""
    if (rate_hz := int(preprocessing["sampling_rate"])) < 1:
        raise ValueError(f"sampling_rate {rate_hz}")
    if config.model_type == "whisper":
        stride = _WHISPER_STRIDE * int(preprocessing["hop_length"])
        return FrameGrid(rate_hz, stride, stride, int(config.max_source_positions))
    kernels, strides = list(config.conv_kernel), list(config.conv_stride)
    receptive = 1 + sum((kernel - 1) * math.prod(strides[:place]) for place, kernel in enumerate(kernels))
    return FrameGrid(rate_hz, math.prod(strides), receptive)


NAME = "speech_transformer"
VERSION = "1"

# A vector that stands for masked frames during pretraining; models saved without it compute the same.
_NEVER_USED = "masked_spec_embed"
# Spectra to a frame: the second convolution takes every other one.
_WHISPER_STRIDE = 2
# A whole Whisper is stored with its decoder, which is not loaded; its encoder's weights have a longer name there.
_WHISPER_ENCODER = {r"^(model\.)?encoder\.": ""}
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
        files, backbone = self._model.files, settings.backbone
        self._spectra: Any = None
        if self._model.grid.window is None:
            self._network = load_model(files, backbone, KEY, may_lack=_NEVER_USED)
            encoder = self._network.encoder
        else:
            from transformers.models.whisper.feature_extraction_whisper import WhisperFeatureExtractor
            from transformers.models.whisper.modeling_whisper import WhisperEncoder

            self._spectra = WhisperFeatureExtractor.from_pretrained(files.directory, local_files_only=True)
            self._network = load_model(files, backbone, KEY, kind=WhisperEncoder, key_mapping=_WHISPER_ENCODER)
            encoder = self._network
        self._device = choose_device(backbone, KEY)
        self._layers = _Layers(encoder, *settings.layers, keep=settings.keep_layers)

    def extract(self, path: Path) -> Extracted:
        """Return the features of a file.

        The clip is resampled to the network's rate and normalized as a whole, if the network's preprocessing
        says so. A clip longer than ``chunk_s``, or than Whisper's window, is cut into chunks that are all equally
        long, so that nothing is padded, and that fade into each other where they overlap. Frames of silence before
        and after the sound are left out at the end, if the settings say so.

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
        waveform = grid.filled(sound.waveform)
        if self._model.is_normalised:
            waveform = normalised(waveform)
        length = min(grid.frames(len(waveform)), grid.chunk(settings.chunk_s))
        overlap = min(length // 2, round(settings.overlap_s * grid.rate_hz / grid.stride))
        starts = chunk_starts(grid.frames(len(waveform)), length, overlap)
        # A clip in one piece goes in whole, with the samples after its last frame: some networks normalize over them.
        is_whole = len(starts) == 1 and grid.window is None
        framed = waveform[grid.before(len(waveform)) :]
        pieces = [waveform] if is_whole else [framed[grid.span(start, length)] for start in starts]
        chunks = [
            self._hidden(np.stack(pieces[place : place + settings.batch_size]))
            for place in range(0, len(pieces), settings.batch_size)
        ]
        values = joined_chunks(np.concatenate(chunks), starts, grid.frames(len(waveform)), overlap)
        values, times = values[-frames:], grid.times(len(sound.waveform))
        if settings.trim_silence_db is not None:
            sounding = log_mel.sounding_interval(sound.waveform, grid.rate_hz, settings.trim_silence_db)
            kept = log_mel.within(times, sounding)
            values, times = values[kept], times[kept]
        return Extracted(values, times, note=sound.note, facts=sound.facts)

    def _hidden(self, waveforms: Samples) -> Samples:
        """Return the chosen layers (chunk, time, channel) of waveforms (chunk, sample)."""
        inputs = torch.from_numpy(waveforms)
        if self._spectra is not None:
            rate_hz, samples = self._model.grid.rate_hz, waveforms.shape[1]
            inputs = self._spectra(
                list(waveforms), sampling_rate=rate_hz, max_length=samples, return_tensors="pt"
            ).input_features
        with inference(self._settings.backbone, self._device):
            self._network(inputs.to(self._device))
            hidden: Samples = self._layers.take().float().cpu().numpy()
        return hidden


class _Layers:
    """Takes what the chosen layers of an encoder put out, while it runs.

    Layer i is the output of block i, layer 0 the input of the first block, and the last layer is what the
    whole encoder puts out: in networks that normalize before each block, its final norm included. Blocks
    above the last chosen one are taken out.

    Args:
        encoder: of a speech network of transformers.
        first: layer.
        last: layer.
        keep: give the layers side by side instead of their mean.
    """

    def __init__(self, encoder: Any, first: int, last: int, *, keep: bool) -> None:
        self._keep = keep
        self._found: list[Tensor] = []
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
        """Return the layers of the last run (chunk, time, channel) and forget them."""
        found, self._found = self._found, []
        return torch.cat(found, dim=-1) if self._keep else torch.stack(found).mean(dim=0)

    def _add(self, output: Tensor | tuple[Tensor, ...]) -> None:
        self._found.append((output[0] if isinstance(output, tuple) else output).float())


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
    layers = settings.layers[1] - settings.layers[0] + 1 if settings.keep_layers else 1
    return ModalityInfo(
        extractor=NAME,
        version=VERSION,
        settings=recorded_settings(of_kind, {"backbone": model.files}),
        frame_rate_hz=model.grid.rate_hz / model.grid.stride,
        width=model.width * layers,
    )
