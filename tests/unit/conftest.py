"""Batches and networks small enough for a test of one property."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from vavl.data.batch import ClipBatch, ModalityBatch, pad_clips
from vavl.models.ladder import LadderVavl
from vavl.models.settings import LadderShape, NetworkSettings
from vavl.models.vavl import Vavl

AUDIO_WIDTH, VIDEO_WIDTH, OUTPUTS = 6, 5, 3


@dataclass(frozen=True)
class Clip:
    """One clip of a made-up batch.

    Attributes:
        audio: (time, channel) or None.
        video: (time, channel) or None.
        target: (outputs,) or None without label.
    """

    audio: NDArray[np.float32] | None
    video: NDArray[np.float32] | None
    target: NDArray[np.float32] | None


class Batches:
    """Makes clips and puts them into batches as the loader does."""

    audio_width, video_width, outputs = AUDIO_WIDTH, VIDEO_WIDTH, OUTPUTS

    @staticmethod
    def clips(description: str, seed: int = 0, soft: bool = False) -> list[Clip]:
        """Draw clips, one per word: ``av``, ``a``, ``v`` or ``-``, with ``?`` where there is no label."""
        generator = np.random.default_rng(seed)
        made = []
        for word in description.split():
            frames = generator.integers(2, 12, size=2)
            audio = generator.normal(size=(frames[0], AUDIO_WIDTH)).astype(np.float32)
            video = generator.normal(size=(frames[1], VIDEO_WIDTH)).astype(np.float32)
            votes = generator.dirichlet(np.ones(OUTPUTS)) if soft else np.eye(OUTPUTS)[generator.integers(OUTPUTS)]
            target = None if "?" in word else votes.astype(np.float32)
            made.append(Clip(audio if "a" in word else None, video if "v" in word else None, target))
        return made

    @staticmethod
    def of(clips: Sequence[Clip], fillers: int = 0) -> ClipBatch:
        """Collate clips, and fillers after them."""
        sides = {}
        for modality, width in (("audio", AUDIO_WIDTH), ("video", VIDEO_WIDTH)):
            values = {place: getattr(clip, modality) for place, clip in enumerate(clips)}
            there = {place: value for place, value in values.items() if value is not None}
            sides[modality] = pad_clips(list(there.values()), list(there), width)
        target = [np.zeros(OUTPUTS, np.float32) if clip.target is None else clip.target for clip in clips]
        target += [np.zeros(OUTPUTS, np.float32)] * fillers

        def flags(field: str) -> Tensor:
            return torch.tensor([getattr(clip, field) is not None for clip in clips] + [False] * fillers).float()

        return ClipBatch(
            audio=sides["audio"],
            video=sides["video"],
            index=torch.tensor([*range(len(clips)), *[-1] * fillers]),
            target=torch.from_numpy(np.stack(target)),
            is_labelled=flags("target"),
            has_audio=flags("audio"),
            has_video=flags("video"),
            place=torch.arange(len(clips) + fillers),
        )

    @staticmethod
    def padded(batch: ClipBatch, frames: int, garbage: float) -> ClipBatch:
        """Return the batch with ``frames`` more of padding, and all padding filled with ``garbage``."""

        def side(modality: ModalityBatch) -> ModalityBatch:
            rows, _, width = modality.values.shape
            is_real = torch.cat((modality.is_real, torch.zeros(rows, frames, dtype=torch.bool)), dim=1)
            values = torch.cat((modality.values, torch.zeros(rows, frames, width)), dim=1)
            filled = values.masked_fill(~is_real.unsqueeze(-1), garbage)
            return replace(modality, values=filled, is_real=is_real, is_padded=True)

        return replace(batch, audio=side(batch.audio), video=side(batch.video))


@pytest.fixture
def batches() -> Batches:
    """Return a maker of clips and batches."""
    return Batches()


@pytest.fixture
def tiny_settings() -> Callable[..., NetworkSettings]:
    """Return a function that gives settings of a network of a few thousand parameters, without dropout."""

    def make(**changes: Any) -> NetworkSettings:
        sizes = {
            "width": 16, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2, "convolution_kernel": 5,
            "head_widths": (16, 12), "dropout": 0, "head_dropout": 0, "correlation_size": 4,
        }  # fmt: skip
        return NetworkSettings.model_validate({**sizes, **changes})

    return make


@pytest.fixture
def tiny_network(tiny_settings: Callable[..., NetworkSettings]) -> Callable[..., Vavl]:
    """Return a function that gives a small network, evaluating, with weights that are all away from zero."""

    def make(
        seed: int = 0,
        outputs: int = OUTPUTS,
        ladder: LadderShape | None = None,
        contrast_size: int = 0,
        layers: tuple[int, int] = (1, 1),
        **changes: Any,
    ) -> Vavl:
        torch.manual_seed(seed)
        sizes = tiny_settings(**changes), AUDIO_WIDTH, VIDEO_WIDTH, outputs
        network = Vavl(*sizes, layers=layers) if ladder is None else LadderVavl(*sizes, ladder, layers=layers)
        if contrast_size:
            network.add_contrast(contrast_size)
        _shake(network)
        return network.eval()

    return make


@pytest.fixture
def gradients() -> Callable[[nn.Module], dict[str, Tensor]]:
    """Return a function that gives the gradient of every parameter by name; zeros where none arrived."""

    def read(network: nn.Module) -> dict[str, Tensor]:
        return {
            name: torch.zeros_like(parameter) if parameter.grad is None else parameter.grad.clone()
            for name, parameter in network.named_parameters()
        }

    return read


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small tensors are slower on several threads, and other tests may run beside this one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def _shake(network: nn.Module) -> None:
    """Move biases and norms off their zeros and ones: a dead part would hide what is done to it."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))


@pytest.fixture(scope="module")
def two_ray_workers() -> Iterator[None]:
    """Start Ray with place for two workers that import what the tests import."""
    import ray

    ray.shutdown()
    with pytest.MonkeyPatch.context() as patch:
        tests = Path(__file__).parents[1]
        paths = (tests.parent / "platform", *(tests / "support").iterdir())
        patch.setenv("PYTHONPATH", os.pathsep.join(map(str, paths)))
        ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=100 * 2**20)
    yield
    ray.shutdown()
