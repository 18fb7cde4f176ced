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

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.layers import masked_mean
from vavl.models.settings import LadderShape, NetworkSettings


class Encoding(NamedTuple):
    """What one pass of a modality's encoder gives."""

    representation: Tensor
    """(rows, width): masked mean over time of the last layer."""
    layers: tuple[Tensor, ...]
    """(rows, T, D) each, padding undefined: the input frames, then the output of every Conformer block."""


class OtherModality(NamedTuple):
    """The other modality of each row of a modality, zeros where the clip lacks it."""

    is_there: Tensor
    """(rows,), bool."""
    representation: Tensor
    """(rows, width)."""
    layers: tuple[Tensor, ...]
    """(rows, 1, D) each, averaged over the frames; empty when no skip connection reads them."""


class LadderTrace(NamedTuple):
    """The layers of one modality: clean, and as the decoder rebuilt them from the noisy pass."""

    clean: tuple[Tensor, ...]
    estimate: tuple[Tensor, ...]


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
        """Combine (rows, T or 1, D) inputs in the type of ``lateral``; the result has T frames."""
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
        self.down = nn.ModuleList(
            nn.Linear(widths[layer + 1], widths[layer]) for layer in range(len(widths) - 1)
        )
        self.lateral = nn.ModuleList(
            nn.Linear(theirs, ours, bias=False)
            for theirs, ours in zip(other or (), widths, strict=bool(other))
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


def pooled_layers(encoding: Encoding, is_real: Tensor) -> tuple[Tensor, ...]:
    """Average each layer over the real frames: (rows, D) each."""
    return tuple(masked_mean(layer, is_real) for layer in encoding.layers)


def _unit(values: Tensor) -> Tensor:
    """Give every frame zero mean and unit variance over its channels."""
    return functional.layer_norm(values, values.shape[-1:])
