"""Image networks of a few thousand random weights, saved as the hub's models are."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

SIDE_PX = 32
PREPROCESSING: dict[str, Any] = {
    "size": {"height": SIDE_PX, "width": SIDE_PX},
    "image_mean": [0.5, 0.4, 0.3],
    "image_std": [0.5, 0.25, 0.2],
    "rescale_factor": 1 / 255,
}
_GAINS = {"efficientnet": 1.4, "mobilenet_v1": 1.6}
BACKBONES = ("efficientnet", "vit", "mobilenet_v1", "mobilenet_v2")


def tiny_config(kind: str) -> Any:
    """Return a small configuration of one of the BACKBONES."""
    import transformers

    match kind:
        case "efficientnet":
            return transformers.EfficientNetConfig(
                image_size=SIDE_PX, width_coefficient=0.1, depth_coefficient=0.1, hidden_dim=128
            )
        case "vit":
            return transformers.ViTConfig(
                hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=24,
                image_size=SIDE_PX, patch_size=16,
            )  # fmt: skip
        case "mobilenet_v1":
            return transformers.MobileNetV1Config(depth_multiplier=0.1, min_depth=4, image_size=SIDE_PX)
        case "mobilenet_v2":
            return transformers.MobileNetV2Config(
                depth_multiplier=0.1, min_depth=4, depth_divisible_by=4, image_size=SIDE_PX
            )
    raise ValueError(kind)


def save_network(folder: Path, network: Any, preprocessing: dict[str, Any] | None = None) -> Path:
    """Save a network and its preprocessing as a model directory of the hub."""
    from transformers.utils import logging

    logging.disable_progress_bar()
    network.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing or PREPROCESSING))
    return folder


def save_tiny(folder: Path, kind: str = "vit", seed: int = 0) -> Path:
    """Save a small random network of one of the BACKBONES; the seed decides its weights and statistics."""
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModel.from_config(tiny_config(kind))
        for name, weight in network.named_parameters():
            # As they are drawn by default, many layers in evaluation let nothing of the input through.
            if weight.dim() > 1:
                torch.nn.init.kaiming_normal_(weight)
            elif kind in _GAINS and name.endswith("weight"):
                weight.data.fill_(_GAINS[kind])
        for name, buffer in network.named_buffers():
            # Fresh running statistics would hide a BatchNorm that uses those of the batch.
            if name.endswith("running_mean"):
                buffer.normal_(0, 0.2)
            elif name.endswith("running_var"):
                buffer.uniform_(0.5, 2)
    return save_network(folder, network)
