"""The Conformer block without BatchNorm, with rotary positions, safe against padding.

Every module here is plain torch and calls its children. Where a mask of real frames is asked for, None says that
nothing is padded: then there is nothing to hide.

Axes: B clips, H heads, T frames, D channels of a head.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from typing import NamedTuple, TypeGuard, cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from vavl.models import cpu, gpu
from vavl.models.cpu import recomputed
from vavl.models.draws import Dropout, SequentialWithDropout, SwishDropout, in_turn, keys_from_stream
from vavl.models.settings import NetworkSettings

_ROTARY_BASE = 10_000.0
_LEAST_VARIANCE = 1e-5


class Frames(NamedTuple):
    """What the attention of every block reads of the frames of a batch, made once for all of them."""

    cosine: Tensor
    """(T, D / 2), float32: of the rotation of each frame and channel pair."""
    sine: Tensor
    """Likewise."""
    hidden: Tensor | None
    """(B, 1, 1, T), to be added to the scores: -inf for padding; None where nothing is padded."""


class FeedForward(SequentialWithDropout):
    """LayerNorm, expansion, Swish and projection back, added to the input."""

    def __init__(self, settings: NetworkSettings) -> None:
        hidden = settings.width * settings.feed_forward_expansion
        # Numbered as when Swish was a module of its own: saved weights are found by these names.
        layers = {
            "0": nn.LayerNorm(settings.width),
            "1": nn.Linear(settings.width, hidden),
            "3": SwishDropout(settings.dropout),
            "4": nn.Linear(hidden, settings.width),
            "5": Dropout(settings.dropout),
        }
        super().__init__(OrderedDict(layers))

    def forward(self, frames: Tensor, rows: Tensor | None = None, weight: float = 1.0) -> Tensor:
        """Return ``frames`` + ``weight`` * what the layers make of them.

        Args:
            frames: (batch, time, channel).
            rows: (batch,), key of each clip for dropout; None without dropout.
            weight: of what is added.
        """
        *layers, last = self
        hidden = recomputed(partial(in_turn, layers[:2]), frames)
        mixed = recomputed(partial(in_turn, layers[2:]), hidden, rows)
        added: Tensor = last(mixed, rows, frames, weight)
        return added


class RotaryAttention(nn.Module):
    """Multi-head self-attention over the real frames of one clip, with rotary positions (Su et al. 2021)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.heads = settings.attention_heads
        self.norm = nn.LayerNorm(settings.width)
        self.query_key_value = nn.Linear(settings.width, 3 * settings.width)
        self.output = nn.Linear(settings.width, settings.width)
        self.dropout = Dropout(settings.dropout)

    def forward(
        self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None = None, about: Frames | None = None
    ) -> Tensor:
        """Return ``frames`` + what each gathers within its clip, which needs a real frame; see ``ConformerBlock``."""
        qkv = recomputed(partial(in_turn, (self.norm, self.query_key_value)), frames)
        mixed = self.output(attend(qkv, self.heads, about or self.about(frames, is_real)))
        attended: Tensor = self.dropout(mixed, rows, frames)
        return attended

    def about(self, frames: Tensor, is_real: Tensor | None) -> Frames:
        """Return what attention reads of frames, for a call of this module alone."""
        return frames_of(frames, frames.shape[2] // self.heads, is_real)


class DepthwiseConvolution(nn.Conv2d):
    """One kernel over time per channel; (batch, channel, 1, time) in and out."""

    bias: nn.Parameter

    def __init__(self, width: int, kernel: int) -> None:
        super().__init__(width, width, (1, kernel), padding=(0, kernel // 2), groups=width)

    def forward(self, image: Tensor) -> Tensor:
        """Convolve, as torch does or as ``cpu.depthwise`` does it quicker."""
        return cpu.depthwise(image, self.weight, self.bias) if cpu.is_usable(image) else super().forward(image)


class TimeConvolution(nn.Module):
    """Pointwise, GLU, depthwise over time, LayerNorm, Swish, pointwise.

    LayerNorm stands where the published block has BatchNorm, which mixes clips and modalities.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        width, kernel = settings.width, settings.convolution_kernel
        self.norm = nn.LayerNorm(width)
        self.expand = nn.Linear(width, 2 * width)
        self.depthwise = DepthwiseConvolution(width, kernel)
        self.depthwise_norm = nn.LayerNorm(width)
        self.project = nn.Linear(width, width)
        self.dropout = Dropout(settings.dropout)

    def forward(self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None = None) -> Tensor:
        """Return ``frames`` + their convolution within each clip, where padding counts as silence; see the block."""
        expanded = recomputed(partial(in_turn, (self.norm, self.expand)), frames)
        convolved: Tensor = self.dropout(recomputed(self.convolve, expanded, is_real), rows, frames)
        return convolved

    def convolve(self, expanded: Tensor, is_real: Tensor | None) -> Tensor:
        """Map (batch, time, 2 * channel) to (batch, time, channel): all but the first two layers."""
        gated = functional.glu(expanded, dim=-1)
        if is_real is not None:
            gated = gated * is_real.unsqueeze(-1)  # a product will do: within blocks padding is finite
        # (B, T, C) read as (B, C, 1, T) is conv2d's channels-last layout: no copy, and the fastest form.
        image = self.depthwise(gated.unsqueeze(1).permute(0, 3, 1, 2))
        projected: Tensor = self.project(functional.silu(self.depthwise_norm(image.permute(0, 2, 3, 1).squeeze(1))))
        return projected


class ConformerBlock(nn.Module):
    """Half feed-forward, self-attention, convolution, half feed-forward, LayerNorm (Gulati et al. 2020).

    With ``blocks: feed_forward`` nothing mixes frames: attention and convolution are left out.
    """

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.first_feed_forward = FeedForward(settings)
        self.mixes_frames = settings.blocks == "conformer"
        if self.mixes_frames:
            self.attention = RotaryAttention(settings)
            self.convolution = TimeConvolution(settings)
        self.second_feed_forward = FeedForward(settings)
        self.norm = nn.LayerNorm(settings.width)
        self.first_stream = 0
        """What its draws count from: compiled blocks differ by their keys alone, so that one form fits all."""

    def forward(
        self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None = None, about: Frames | None = None
    ) -> Tensor:
        """Map (batch, time, channel) to the same shape; padded frames come out undefined but finite.

        Args:
            frames: (batch, time, channel).
            is_real: (batch, time), bool; False where the frame is padding.
            rows: (batch,), key of each clip for the dropout of this block; None without dropout.
            about: the frames.
        """
        frames = self.first_feed_forward(frames, rows, 0.5)
        if self.mixes_frames:
            frames = self.attention(frames, is_real, rows, about)
            frames = self.convolution(frames, is_real, rows)
        frames = self.second_feed_forward(frames, rows, 0.5)
        normalized: Tensor = self.norm(frames)
        return normalized


class ConformerBlocks(nn.ModuleList):
    """Conformer blocks one after the other, with noise between them where it is given.

    Args:
        count: of blocks.
        settings: sizes.
        activation_checkpointing: keep the input of every block alone for the backward pass, and compute what is
            within it once more there; dropout draws the same again, as its keys are arguments.
    """

    def __init__(self, count: int, settings: NetworkSettings, activation_checkpointing: bool = False) -> None:
        super().__init__(ConformerBlock(settings) for _ in range(count))
        self.activation_checkpointing = activation_checkpointing

    def forward(
        self, frames: Tensor, is_real: Tensor | None, rows: Tensor | None, noise: Sequence[Tensor | None],
        about: Frames | None = None,
    ) -> list[Tensor]:  # fmt: skip
        """Return the output of every block; ``noise`` per block, (batch, time, channel) or None, is added to it."""
        layers: list[Tensor] = []
        for block, extra in zip(cast("Iterable[ConformerBlock]", self), noise, strict=True):
            keys = keys_from_stream(rows, block.first_stream)
            frames = with_noise(self._run(block, frames, is_real, keys, about), extra)
            layers.append(frames)
        return layers

    def _run(self, block: nn.Module, frames: Tensor, *others: Tensor | Frames | None) -> Tensor:
        if self.activation_checkpointing and torch.is_grad_enabled():
            # Found with 2 ranks, DeepSpeed 0.19, fp32 and bf16: this way every ZeRO stage gives, to the last bit, what
            # it gives without checkpointing. The re-entrant way runs a backward of its own per block, and ZeRO 2
            # and 3 refuse a gradient in two parts, as the shared blocks have one per modality.
            kept: Tensor = checkpoint(gpu.call, block, frames, *others, use_reentrant=False, preserve_rng_state=False)
            return kept
        output: Tensor = gpu.call(block, frames, *others)
        return output


def number_streams(network: nn.Module) -> None:
    """Give every Dropout of a network a stream of its own, by its place."""
    for number, drawing in enumerate(filter(_draws, network.modules())):
        drawing.stream = number


def _draws(module: nn.Module) -> TypeGuard[Dropout]:
    return isinstance(module, Dropout)


def without_padding(frames: Tensor, is_real: Tensor | None) -> Tensor:
    """Return (batch, time, channel) with zeros where ``is_real`` (batch, time) is False, whatever was there."""
    # Choosing, not multiplying: even infinite padding leaves no trace. On a CPU it takes half as long as `masked_fill`.
    return frames if is_real is None else torch.where(is_real.unsqueeze(-1), frames, 0)


def masked_mean(frames: Tensor, is_real: Tensor | None) -> Tensor:
    """Average each clip over its real frames.

    Args:
        frames: (batch, time, channel), floating point.
        is_real: (batch, time), bool; False where the frame is padding.

    Returns:
        (batch, channel); padding and batch-mates never change a clip's row.
    """
    if is_real is None:
        return frames.sum(dim=1) / frames.shape[1]
    total = without_padding(frames, is_real).sum(dim=1)
    # A clip of padding only would divide by zero; it comes out as zeros instead.
    return total / is_real.sum(dim=1, keepdim=True).clamp_min(1).to(frames.dtype)


def with_noise(frames: Tensor, noise: Tensor | None) -> Tensor:
    """Add noise in the precision of the frames."""
    return frames if noise is None else frames + noise.to(frames.dtype)


def attend(qkv: Tensor, heads: int, about: Frames) -> Tensor:
    """Return softmax(rotated query rotated key' / sqrt(D)) value within each clip.

    Args:
        qkv: (B, T, 3 * H * D): query, key and value side by side, head by head.
        heads: H.
        about: the frames.

    Returns:
        (B, T, H * D).
    """
    if at_once := cpu.clips_at_once(qkv, heads):
        parts = torch.split(qkv, at_once)
        hidden = [None] * len(parts) if about.hidden is None else torch.split(about.hidden, at_once)
        mixed = [
            recomputed(partial(attended, cpu.attend_by_products), part, heads, about._replace(hidden=one))
            for part, one in zip(parts, hidden, strict=True)
        ]
        return mixed[0] if len(mixed) == 1 else torch.cat(mixed)
    # No dropout of the attention weights: it would rule out the fused kernels. The output has it.
    return attended(functional.scaled_dot_product_attention, qkv, heads, about)


def attended(attention: Callable[..., Tensor], qkv: Tensor, heads: int, about: Frames) -> Tensor:
    """Do what ``attend`` does by ``attention``, a function of query, key and value (B, H, T, D) and what is hidden."""
    if gpu.is_usable(qkv):
        query, key, value = gpu.rotated_heads(qkv, heads, about.cosine, about.sine)
    else:
        query, key, value = split_heads(qkv, heads)
        query, key = (rotate(one, about.cosine, about.sine) for one in (query, key))
    return join_heads(attention(query, key, value, None if about.hidden is None else about.hidden.to(query.dtype)))


def frames_of(values: Tensor, head_width: int, is_real: Tensor | None) -> Frames:
    """Make what attention reads of frames.

    Args:
        values: (B, T, channel), of the frames.
        head_width: D.
        is_real: (B, T), bool; None where nothing is padded.
    """
    angles = rotary_angles if torch.compiler.is_compiling() else _kept_angles
    cosine, sine = angles(values.shape[1], head_width, values.device)
    if is_real is None:
        return Frames(cosine, sine, None)
    dtype = gpu.autocast_dtype(values.device.type) or values.dtype
    hidden = torch.zeros_like(is_real, dtype=dtype).masked_fill(~is_real, -torch.inf)
    return Frames(cosine, sine, hidden[:, None, None, :])


class Subsampling(nn.ModuleList):
    """Convolutions over time, each of stride 2 and with Swish after it."""

    def __init__(self, width: int, factor: int) -> None:
        super().__init__(nn.Conv1d(width, width, 3, stride=2, padding=1) for _ in range(factor.bit_length() - 1))

    def forward(self, frames: Tensor, is_real: Tensor | None) -> Tensor:
        """Map (batch, time, channel) to (batch, time / factor rounded up, channel); padding counts as silence."""
        for layer in self:
            frames = without_padding(frames, is_real)
            frames = functional.silu(layer(frames.transpose(1, 2)).transpose(1, 2))
            is_real = None if is_real is None else is_real[:, ::2]
        return frames


class Pooling(nn.Module):
    """The frames of a clip as one vector: their mean, learned weights, or mean and deviation projected."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.kind, width = settings.pooling, settings.width
        if self.kind == "attention":
            self.score = nn.Linear(width, 1)
        if self.kind == "statistics":
            self.project = nn.Linear(2 * width, width)

    def forward(self, frames: Tensor, is_real: Tensor | None) -> Tensor:
        """Map (batch, time, channel) to (batch, channel); ``is_real`` (batch, time) is False for padding."""
        match self.kind:
            case "attention":
                scores = self.score(frames).float()
                if is_real is not None:
                    scores = scores.masked_fill(~is_real.unsqueeze(-1), -torch.inf)
                gathered: Tensor = (scores.softmax(dim=1) * without_padding(frames, is_real)).sum(dim=1)
                return gathered.to(frames.dtype)
            case "statistics":
                projected: Tensor = self.project(mean_and_deviation(frames, is_real))
                return projected
            case _:
                return masked_mean(frames, is_real)


def mean_and_deviation(frames: Tensor, is_real: Tensor | None) -> Tensor:
    """Return mean and standard deviation of each channel over the real frames, (batch, 2 * channel)."""
    mean = masked_mean(frames, is_real)
    variance = masked_mean((frames - mean.unsqueeze(1)).square(), is_real)
    # The slope of a root is infinite at 0, where a clip of one frame lies.
    return torch.cat((mean, (variance + _LEAST_VARIANCE).sqrt()), dim=-1)


def split_heads(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Split (B, T, 3 * H * D), query, key and value side by side, into three of (B, H, T, D)."""
    clips, frames, width = qkv.shape
    query, key, value = qkv.view(clips, frames, 3, heads, width // (3 * heads)).permute(2, 0, 3, 1, 4)
    return query, key, value


def join_heads(mixed: Tensor) -> Tensor:
    """Turn (B, H, T, D) into (B, T, H * D)."""
    return mixed.transpose(1, 2).flatten(2)


def rotary_angles(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Return cosine and sine of the rotation of each frame and channel pair (Su et al. 2021, eq. 34).

    A product of two rotated vectors depends on their distance in frames only, hence neither on the
    amount of padding nor on where the clip starts.

    Returns:
        Two tensors (frames, head_width / 2), float32.
    """
    pair = torch.arange(0, -head_width, -2, device=device, dtype=torch.float32)
    speed = _ROTARY_BASE ** (pair / head_width)
    angle = torch.arange(frames, device=device, dtype=torch.float32).unsqueeze(1) * speed
    return angle.cos(), angle.sin()


@lru_cache(maxsize=64)
def _kept_angles(frames: int, head_width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    with torch.inference_mode(mode=False):  # a later training pass may save them
        return rotary_angles(frames, head_width, device)


def rotate(x: Tensor, cosine: Tensor, sine: Tensor) -> Tensor:
    """Turn each channel pair of (B, H, T, D) by its frame's angle."""
    first, second = x.chunk(2, dim=-1)
    cosine, sine = cosine.to(x.dtype), sine.to(x.dtype)
    return torch.cat((first * cosine - second * sine, second * cosine + first * sine), dim=-1)
