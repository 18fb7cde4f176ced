"""The Conformer block once more, by autograd and torch's layers alone: what its quick forms are held against."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from vavl.models.conformer import ConformerBlock, FeedForward, RelativeAttention, TimeConvolution
from vavl.models.kernels.attention import rotary_angles, rotate
from vavl.models.kernels.draws import random_bytes
from vavl.models.kernels.dropout import Dropout


def plain_block(block: ConformerBlock, frames: Tensor, is_real: Tensor, rows: Tensor | None) -> Tensor:
    """Compute a block with its own weights; arguments and result are those of its ``forward``."""
    frames = plain_feed_forward(block.first_feed_forward, frames, rows)
    frames = plain_attention(block.attention, frames, is_real, rows)
    frames = plain_convolution(block.convolution, frames, is_real, rows)
    frames = plain_feed_forward(block.second_feed_forward, frames, rows)
    return block.norm(frames)


def plain_feed_forward(layers: FeedForward, frames: Tensor, rows: Tensor | None) -> Tensor:
    """Add half of what the layers give."""
    mixed = frames
    for layer in layers:
        mixed = plain_dropout(layer, mixed, rows) if isinstance(layer, Dropout) else plain(layer, mixed)
    return frames + 0.5 * mixed


def plain_attention(
    layers: RelativeAttention, frames: Tensor, is_real: Tensor, rows: Tensor | None
) -> Tensor:
    """Add what frames gather, by softmax and products."""
    clips, count, width = frames.shape
    joined = plain(layers.query_key_value, plain(layers.norm, frames))
    query, key, value = joined.view(clips, count, 3, layers.heads, -1).permute(2, 0, 3, 1, 4)
    angles = rotary_angles(count, width // layers.heads, frames.device)
    score = rotate(query, *angles) @ rotate(key, *angles).transpose(-1, -2) * query.shape[-1] ** -0.5
    weight = score.masked_fill(~is_real[:, None, None, :], -torch.inf).softmax(dim=-1)
    mixed = plain(layers.output, (weight @ value).transpose(1, 2).flatten(2))
    return frames + plain_dropout(layers.dropout, mixed, rows)


def plain_convolution(
    layers: TimeConvolution, frames: Tensor, is_real: Tensor, rows: Tensor | None
) -> Tensor:
    """Add the convolution, by ``conv1d``."""
    gated = functional.glu(plain(layers.expand, plain(layers.norm, frames)), dim=-1)
    gated = gated.masked_fill(~is_real.unsqueeze(-1), 0).transpose(1, 2)
    depthwise = layers.depthwise
    convolved = functional.conv1d(
        gated, depthwise.weight.squeeze(2), depthwise.bias, padding="same", groups=depthwise.groups
    )
    mixed = plain(layers.project, functional.silu(plain(layers.depthwise_norm, convolved.transpose(1, 2))))
    return frames + plain_dropout(layers.dropout, mixed, rows)


def plain(layer: nn.Module, values: Tensor) -> Tensor:
    """Apply a layer as torch has it."""
    if isinstance(layer, nn.Linear):
        return functional.linear(values, layer.weight, layer.bias)
    return layer(values)


def plain_dropout(layer: Dropout, values: Tensor, rows: Tensor | None) -> Tensor:
    """Multiply with 0 or the scale, by comparing byte after byte."""
    if rows is None or not layer.training:
        return values
    levels = round(256 * layer.probability)
    is_kept = random_bytes(rows, layer.stream, values[0].numel()) >= levels
    return values * is_kept.view(values.shape) * (256 / (256 - levels))
