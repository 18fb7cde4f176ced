"""Decoders of the cross-modal ladder (after Rasmus et al. 2015; Goncalves & Busso, ICASSP 2023).

The encoder runs twice: clean, and with noise on its input and after every block. A decoder with skip
connections from the noisy layers rebuilds the clean layers of one modality from the noisy top of the
other. The papers' public texts leave the cross-modal form open; this one is ours:

- the top is the pooled noisy representation of the *other* modality for a pair, of the clip's own
  modality otherwise, broadcast over the frames, as frame rates differ;
- lateral input of a layer: the clip's own noisy layer, the other modality's (pooled, through a linear
  map), both added, or zeros;
- the vertical input of a layer is the estimate of the layer above, mapped and normalized per frame.

Axes: rows = clips of the modality, T frames, D channels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.models import gpu
from vavl.models.conformer import masked_mean
from vavl.models.draws import DrawKey, keys_of_rows, mixed, random_bytes
from vavl.models.settings import LadderShape, NetworkSettings
from vavl.models.vavl import (
    Encoding,
    LadderOutput,
    LadderTrace,
    RowKeys,
    Vavl,
    VavlOutput,
    keys_of_batch,
    spread,
)

_BITS_OF_A_SEED = 63
_BYTES_OF_A_WORD = 4
_STREAM_OF_NOISE = 2**20
"""Of the keys of rows; those of dropout are far lower."""


class OtherModality(NamedTuple):
    """The other modality of each row of a modality, zeros where the clip lacks it."""

    is_there: Tensor
    """(rows,), bool."""
    representation: Tensor
    """(rows, width)."""
    layers: tuple[Tensor, ...]
    """(rows, 1, D) each, averaged over the frames; empty when no skip connection reads them."""


class Combinator(nn.Module):
    """Estimate a clean layer from its lateral and vertical input, channel by channel.

    The vanilla combinator of Pezeshki et al. (2016), eq. 10: a linear part and a sigmoid part, each with a
    bias, both inputs and their product. It starts as the identity of the lateral input.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Parameter(torch.zeros(4, width))
        self.gate = nn.Parameter(torch.zeros(4, width))
        self.gate_scale = nn.Parameter(torch.zeros(width))
        with torch.no_grad():
            self.linear[1] = 1

    def forward(self, lateral: Tensor, vertical: Tensor) -> Tensor:
        """Combine (rows, T, D) with (rows, T or 1, D) in the type of ``lateral``."""
        if gpu.is_usable(lateral):
            combined: Tensor = _Combine.apply(lateral, vertical, self.linear, self.gate, self.gate_scale)  # type: ignore[no-untyped-call]
            return combined
        straight, gate = (
            # bias + a l + b v + c l v, in three passes over the frames.
            torch.addcmul(
                torch.addcmul(bias, vertical, by_vertical),
                lateral,
                torch.addcmul(by_lateral, vertical, by_product),
            )
            for bias, by_lateral, by_vertical, by_product in (
                self.linear.to(lateral.dtype), self.gate.to(lateral.dtype)
            )
        )  # fmt: skip
        estimate: Tensor = torch.addcmul(straight, self.gate_scale.to(lateral.dtype), torch.sigmoid(gate))
        return estimate


class LadderDecoder(nn.Module):
    """Rebuilds the clean layers of one modality, top down."""

    def __init__(self, settings: NetworkSettings, widths: Sequence[int], other: Sequence[int] | None) -> None:
        """Make a decoder.

        Args:
            settings: width of the representation.
            widths: channels of the layers to rebuild, input first.
            other: channels of the other modality's layers if skip connections read them.
        """
        super().__init__()
        self.top = nn.Linear(settings.width, settings.width)
        self.combinators = nn.ModuleList(Combinator(width) for width in widths)
        self.down = nn.ModuleList(nn.Linear(widths[layer + 1], widths[layer]) for layer in range(len(widths) - 1))
        self.lateral = nn.ModuleList(
            nn.Linear(theirs, ours, bias=False) for theirs, ours in zip(other or (), widths, strict=bool(other))
        )

    def forward(self, top: Tensor, lateral: Sequence[Tensor], other: Sequence[Tensor]) -> tuple[Tensor, ...]:
        """Rebuild the layers.

        Args:
            top: (rows, width).
            lateral: own noisy layers (rows, T, D), or zeros of that shape.
            other: the other modality's noisy layers (rows, 1, D); empty when they are not read.
        """
        vertical = _unit(self.top(top.to(self.top.weight.dtype))).unsqueeze(1)
        estimates: list[Tensor] = []
        for layer in reversed(range(len(self.combinators))):
            skip = lateral[layer]
            if other:
                skip = skip + self.lateral[layer](other[layer].to(vertical.dtype))
            estimates.append(self.combinators[layer](skip, vertical))
            if layer:
                vertical = _unit(self.down[layer - 1](estimates[-1].to(vertical.dtype)))
        return tuple(reversed(estimates))


class CrossModalLadder(nn.Module):
    """Both decoders."""

    def __init__(self, settings: NetworkSettings, widths: tuple[int, int], shape: LadderShape) -> None:
        """Make the decoders for input frames of ``widths`` (audio, video) channels."""
        super().__init__()
        self.shape = shape
        audio, video = ((width, *[settings.width] * (settings.ladder_layers - 1)) for width in widths)
        crosses = shape.lateral in ("other", "both")
        self.audio = LadderDecoder(settings, audio, video if crosses else None)
        self.video = LadderDecoder(settings, video, audio if crosses else None)

    def forward(
        self, noisy: Sequence[Encoding], other: Sequence[OtherModality]
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Estimate the clean layers of audio and of video.

        Args:
            noisy: what the noisy pass gave, audio and video.
            other: for the rows of audio what video gave, and for the rows of video what audio gave.
        """
        return self._rebuild(self.audio, noisy[0], other[0]), self._rebuild(self.video, noisy[1], other[1])

    def _rebuild(self, decoder: LadderDecoder, own: Encoding, other: OtherModality) -> tuple[Tensor, ...]:
        top = own.representation
        if self.shape.top == "other":
            top = torch.where(other.is_there.unsqueeze(-1), other.representation, top)
        lateral = own.layers
        if self.shape.lateral in ("other", "none"):
            lateral = tuple(torch.zeros_like(layer) for layer in own.layers)
        estimates: tuple[Tensor, ...] = decoder(top, lateral, other.layers)
        return estimates

    @property
    def reads_other_layers(self) -> bool:
        """True where skip connections come from the other modality."""
        return self.shape.lateral in ("other", "both")


class LadderVavl(Vavl):
    """The network as it trains with a ladder; without a key, and once it is saved, it is the plain one.

    Args:
        settings: sizes.
        audio_width: channels of an audio frame.
        video_width: channels of a video frame.
        outputs: numbers predicted per clip.
        shape: of the ladder.
        options: further arguments of ``Vavl``.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        audio_width: int,
        video_width: int,
        outputs: int,
        shape: LadderShape,
        **options: Any,
    ) -> None:
        super().__init__(settings, audio_width, video_width, outputs, **options)
        self.ladder = CrossModalLadder(settings, (audio_width, video_width), shape)

    def run(self, batch: ClipBatch, key: DrawKey | None) -> VavlOutput:
        """Predict and reconstruct from a noisy pass; a clean one, without dropout, gives the ladder's targets."""
        if key is None:
            return super().run(batch, None)
        ladder, rows = self.ladder, keys_of_batch(batch, key)
        modalities = ((self.audio_path, batch.audio), (self.video_path, batch.video))
        noisy = []
        for stream, ((path, clips), keys) in enumerate(zip(modalities, (rows.audio, rows.video), strict=True)):
            drawn = layer_noise(key, stream, clips, batch.place, sum(path.widths), keys)
            noise = torch.split(ladder.shape.noise * drawn, list(path.widths), dim=-1)
            noisy.append(self.encode(path, clips.values, clips.mask, keys, noise))
        follows_target = torch.is_grad_enabled() and not ladder.shape.detach_target
        with torch.set_grad_enabled(follows_target):
            clean, weak = self._clean_pass(batch)
        others = [
            _other_modality(ladder, batch.audio, batch.video, noisy[1], batch.clips),
            _other_modality(ladder, batch.video, batch.audio, noisy[0], batch.clips),
        ]
        audio, video = ladder(noisy, others)
        traces = LadderOutput(LadderTrace(clean[0].layers, audio), LadderTrace(clean[1].layers, video))
        return self.predict(batch, rows, *noisy)._replace(ladder=traces, weak=weak)

    def _clean_pass(self, batch: ClipBatch) -> tuple[list[Encoding], VavlOutput | None]:
        """Encode without noise and dropout, which is noise as well; predict the weak view, in the same pass if it can.

        With targets that carry a gradient it cannot: the weak view has none.
        """
        weak, modalities = None if batch.weak is None else batch.weak.batch, (batch.audio, batch.video)
        paths = (self.audio_path, self.video_path)
        if weak is None or torch.is_grad_enabled():
            given = zip(paths, modalities, strict=True)
            clean = [self.encode(path, clips.values, clips.mask, None) for path, clips in given]
            with torch.no_grad():
                return clean, None if weak is None else super().run(weak, None)
        clean, taught = [], []
        for path, clips, more in zip(paths, modalities, (weak.audio, weak.video), strict=True):
            both = self.encode(path, *_stacked(clips, more), None)
            rows, (_, frames, _) = len(clips.values), clips.values.shape
            clean.append(Encoding(both.representation[:rows], tuple(layer[:rows, :frames] for layer in both.layers)))
            taught.append(Encoding(both.representation[rows:], ()))
        return clean, self.predict(weak, RowKeys(None, None, None), *taught)


def _stacked(first: ModalityBatch, second: ModalityBatch) -> tuple[Tensor, Tensor | None]:
    """Return frames and mask of the clips of two batches together, padded to the longer."""
    sides = (first, second)
    frames = max(one.values.shape[1] for one in sides)
    missing = [frames - one.values.shape[1] for one in sides]
    if any(missing):
        values = [functional.pad(one.values, (0, 0, 0, more)) for one, more in zip(sides, missing, strict=True)]
        masks = [functional.pad(one.is_real, (0, more)) for one, more in zip(sides, missing, strict=True)]
        return torch.cat(values), torch.cat(masks)
    is_padded = first.is_padded or second.is_padded
    return torch.cat([one.values for one in sides]), torch.cat([one.is_real for one in sides]) if is_padded else None


def pooled_layers(encoding: Encoding, is_real: Tensor) -> tuple[Tensor, ...]:
    """Average each layer over the real frames: (rows, D) each."""
    return tuple(masked_mean(layer, is_real) for layer in encoding.layers)


def _other_modality(
    ladder: CrossModalLadder, own: ModalityBatch, other: ModalityBatch, encoding: Encoding, clips: int
) -> OtherModality:
    """Look up the other modality's noisy pass for each row of ``own``."""
    pooled = pooled_layers(encoding, other.is_real) if ladder.reads_other_layers else ()
    counts = other.weight.unsqueeze(-1)
    given = [rows.masked_fill(counts <= 0, 0) for rows in (encoding.representation, *pooled)]
    is_there, representation, *layers = (spread(rows, other.clip, clips)[own.clip] for rows in (counts, *given))
    return OtherModality(is_there[:, 0] > 0, representation, tuple(layer.unsqueeze(1) for layer in layers))


def layer_noise(
    key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, channels: int, keys: Tensor | None = None
) -> Tensor:
    """Draw standard normal noise for one modality.

    By generators on a CPU, where the hash takes three times as long; a generator has its state on the host, and so a
    GPU would wait for it.

    Args:
        key: of the step.
        stream: one number per modality.
        clips: the rows; padded frames get zeros.
        place: (clips of the batch,), place in the global batch; each row draws from a generator of its
            own, so neither padding nor batch-mates nor the number of ranks changes what it gets.
        channels: of all layers together.
        keys: (rows,), those of the dropout of these rows, which are looked up where None is given.

    Returns:
        (rows, time, channels), float32.
    """
    if _draws_by_generators(clips.values):
        return _by_generators(key, stream, clips, place, channels)
    rows = keys_of_rows(key, place[clips.clip], stream) if keys is None else keys
    draw = gpu.kernels().noise if gpu.is_usable(clips.values) else normal_numbers
    noise: Tensor = draw(rows, clips.is_real, channels, _STREAM_OF_NOISE)
    return noise


def _draws_by_generators(values: Tensor) -> bool:
    return values.device.type == "cpu" and not gpu.is_usable(values)


def _by_generators(key: DrawKey, stream: int, clips: ModalityBatch, place: Tensor, channels: int) -> Tensor:
    """Draw (rows, time, channels) with torch's generator, seeded anew for every row."""
    values = clips.values.new_zeros(*clips.is_real.shape, channels, dtype=torch.float32)
    generator = torch.Generator()
    frames = clips.is_real.sum(dim=1).tolist()
    for row, (number, length) in enumerate(zip(place[clips.clip].tolist(), frames, strict=True)):
        generator.manual_seed(mixed(key.seed, key.step, number, stream) >> (64 - _BITS_OF_A_SEED))
        values[row, :length] = torch.randn(length, channels, generator=generator)
    return values


def normal_numbers(rows: Tensor, is_real: Tensor, channels: int, stream: int = 0) -> Tensor:
    """Draw (rows, time, channels) without asking the device for a number; on a CPU it takes three times as long.

    Box and Muller (1958): two uniform numbers make two normal ones.

    Args:
        rows: (rows,), int64, from ``keys_of_rows``.
        is_real: (rows, time), bool; padded frames get zeros.
        channels: of a frame.
        stream: one number per use of the same keys.
    """
    frames = is_real.shape[1]
    pairs = -(-frames * channels // 2)
    words = random_bytes(rows, stream, 2 * _BYTES_OF_A_WORD * pairs).view(torch.int32).float()
    # From (0, 1], as its logarithm is taken, and from [-pi, pi].
    share = ((words[:, 0::2] + 2.0**31) * 2.0**-32).clamp(2.0**-33, 1.0)
    angle = words[:, 1::2] * (math.pi / 2**31)
    radius = share.log().mul(-2).sqrt()
    drawn = torch.stack((radius * angle.cos(), radius * angle.sin()), dim=-1).flatten(1)
    noise = drawn[:, : frames * channels].view(-1, frames, channels)
    return noise.masked_fill(~is_real.unsqueeze(-1), 0)


def _unit(values: Tensor) -> Tensor:
    """Give every frame zero mean and unit variance over its channels."""
    return functional.layer_norm(values, values.shape[-1:])


class _Combine(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, lateral: Tensor, vertical: Tensor, *weights: Tensor) -> Tensor:
        ctx.save_for_backward(lateral, vertical, *weights)
        combined: Tensor = gpu.kernels().combine(lateral, vertical, weights, None)[0]
        return combined

    @staticmethod
    def backward(ctx: Any, above: Tensor) -> tuple[Tensor, ...]:
        lateral, vertical, *weights = ctx.saved_tensors
        of_lateral, of_vertical, parts = gpu.kernels().combine(lateral, vertical, weights, above)
        if vertical.shape != lateral.shape:
            of_vertical = of_vertical.sum(dim=1, keepdim=True)
        linear, gate, scale = torch.split(parts.sum(dim=0), [4, 4, 1])
        return of_lateral, of_vertical, linear, gate, scale[0]
