"""Speech networks of a few thousand random weights, saved as the hub's models are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tiny_networks import save_network

KINDS = ("wav2vec2", "wavlm", "hubert")
LAYERS, WIDTH = 3, 16
# The convolutions of the real ones: 400 samples to a frame, 320 from one to the next.
_CONVOLUTIONS = {
    "conv_dim": (8,) * 7, "conv_kernel": (10, 3, 3, 3, 3, 2, 2), "conv_stride": (5, 2, 2, 2, 2, 2, 2),
}  # fmt: skip


def tiny_speech_config(kind: str, is_large: bool = False, **changes: Any) -> Any:
    """Return a small configuration; large ones normalize per frame and before each block, as the real ones do."""
    import transformers

    classes = {
        "wav2vec2": transformers.Wav2Vec2Config,
        "wavlm": transformers.WavLMConfig,
        "hubert": transformers.HubertConfig,
    }
    sizes = {
        "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24,
        "num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 4, "num_feat_extract_layers": 7,
        "vocab_size": 5, "feat_extract_norm": "layer" if is_large else "group",
        "do_stable_layer_norm": is_large, "conv_bias": is_large,
    }  # fmt: skip
    return classes[kind](**{**sizes, **_CONVOLUTIONS, **changes})


def save_tiny_speech(
    folder: Path,
    kind: str = "wav2vec2",
    is_large: bool = False,
    seed: int = 0,
    do_normalize: bool = True,
    **changes: Any,
) -> Path:
    """Save a small random network; the seed decides its weights, ``changes`` are of its configuration."""
    from transformers import AutoModel

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = AutoModel.from_config(tiny_speech_config(kind, is_large, **changes))
        with torch.no_grad():
            for weights in network.parameters():
                # The library draws biases at 0 and norms at 1: one that is left out would not be missed.
                weights.add_(0.1 * torch.randn_like(weights))
    preprocessing = {
        "feature_extractor_type": "Wav2Vec2FeatureExtractor", "feature_size": 1, "padding_value": 0.0,
        "sampling_rate": 16_000, "do_normalize": do_normalize, "return_attention_mask": is_large,
    }  # fmt: skip
    return save_network(folder, network, preprocessing)


WINDOW = 50
"""Frames of the window of the tiny Whisper: 1 s."""


def save_tiny_whisper(folder: Path, *, has_decoder: bool = False, seed: int = 0, **preprocessing: Any) -> Path:
    """Save a small random encoder of Whisper, as it is or within a whole Whisper."""
    from transformers import WhisperConfig, WhisperForConditionalGeneration

    sizes = {
        "d_model": WIDTH, "encoder_layers": LAYERS, "encoder_attention_heads": 2, "encoder_ffn_dim": 24,
        "decoder_layers": 1, "decoder_attention_heads": 2, "decoder_ffn_dim": 24, "vocab_size": 60,
        "num_mel_bins": 20, "max_source_positions": WINDOW, "max_target_positions": 8,
        "pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "decoder_start_token_id": 0,
    }  # fmt: skip
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = WhisperForConditionalGeneration(WhisperConfig(**sizes))
        with torch.no_grad():
            for weights in network.parameters():
                weights.add_(0.1 * torch.randn_like(weights))
    kept = network if has_decoder else network.model.encoder
    return save_network(
        folder, kept,
        {
            "feature_extractor_type": "WhisperFeatureExtractor", "feature_size": 20, "sampling_rate": 16_000,
            "hop_length": 160, "n_fft": 400, "chunk_length": 1, "padding_value": 0.0, **preprocessing,
        },
    )  # fmt: skip
