"""Runs on synthetic stores in this process: the platform's own step and batches, as the benchmarks measure them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from synthetic_store import write_synthetic_store

from vavl.data.batch import ClipBatch, ModalityBatch, pad_clips
from vavl.store.shards import Dtype
from vavl.training.loop import train_step
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.settings import TrainingPlan
from vavl.training.step import StepResult

AUDIO_FRAMES_PER_SECOND, VIDEO_FRAMES_PER_SECOND = 50, 30
FRAMES_PER_SECOND = {"audio": AUDIO_FRAMES_PER_SECOND, "video": VIDEO_FRAMES_PER_SECOND}


@dataclass(frozen=True)
class Size:
    """What is trained on what.

    Attributes:
        model: settings of the network.
        widths: channels of a frame by modality.
        batch_size: clips of a step.
        seconds: length of every clip; None for lengths as corpora have them, see ``lognormal_seconds``.
        clips: of the store.
    """

    model: Mapping[str, Any]
    widths: Mapping[str, int]
    batch_size: int = 32
    seconds: float | None = 2.5
    clips: int = 160


SIZES = {
    # 125 frames of wav2vec2-large-robust and 75 of EfficientNet-B2 for every clip.
    "paper": Size({"preset": "paper"}, {"audio": 1024, "video": 1408}),
    # 80 log-mel bands and 35 action units.
    "small": Size({"preset": "small"}, {"audio": 80, "video": 35}),
}
QUICK = Size(
    {"preset": "small", "width": 16, "head_widths": (16, 8), "modality_blocks": 1, "convolution_kernel": 3},
    {"audio": 12, "video": 8}, batch_size=4, seconds=0.2, clips=40,
)  # fmt: skip


@dataclass
class Load:
    """A run with some of its batches in memory.

    Attributes:
        run: ready for steps.
        batches: micro-batches of the first steps, used in turn.
    """

    run: TrainingRun
    batches: Sequence[Sequence[ClipBatch]]
    _step: int = field(default=0)

    def step(self) -> StepResult:
        """Take the platform's step on the next batch, copied to the device first, as the loop does."""
        at = self._step
        self._step += 1
        moving = [batch.to(self.run.engine.device) for batch in self.batches[at % len(self.batches)]]
        return train_step(self.run, at, moving, self.run.start.teacher_mean)


def plan_of(size: Size, store: Path, folder: Path, **sections: Mapping[str, Any]) -> TrainingPlan:
    """Return the plan of a run with torch alone: supervised and reconstruction objectives as published."""
    content: dict[str, Any] = {
        "output_dir": folder,
        "data": {"store": store, "composition": {"batch_size": size.batch_size}},
        "model": dict(size.model),
        "training": {
            "launcher": "in_process", "engine": "torch", "max_epochs": 10**6,
        },
    }  # fmt: skip
    for section, changes in sections.items():
        content[section] = {**content.get(section, {}), **changes}
    return TrainingPlan.model_validate(content)


def write_store(size: Size, folder: Path, dtype: Dtype = "float32") -> Path:
    """Write the clips of a size."""
    frames = partial(frames_of, size)
    return write_synthetic_store(folder, size.clips, widths=size.widths, frames=frames, dtype=dtype)


def load_of(plan: TrainingPlan, batches: int = 2) -> Load:
    """Prepare a run and load its first batches."""
    run = prepare_run(plan)
    run.engine.network.train()
    return Load(run, [run.loader.load(step) for step in range(batches)])


def batch_of(size: Size, clips: NDArray[np.int64], classes: int = 3) -> ClipBatch:
    """Return a batch of noise in which every clip has both modalities and a label; no store is read."""
    ones, everywhere = torch.ones(len(clips)), torch.arange(len(clips))
    return ClipBatch(
        audio=_noise(size, "audio", clips),
        video=_noise(size, "video", clips),
        index=everywhere,
        target=torch.eye(classes)[everywhere % classes],
        is_labelled=ones,
        has_audio=ones,
        has_video=ones,
        place=everywhere,
    )


def _noise(size: Size, modality: str, clips: NDArray[np.int64]) -> ModalityBatch:
    generator, width = np.random.default_rng(int(clips[0])), size.widths[modality]
    frames = frames_of(size, modality, clips)
    values = [generator.standard_normal((count, width), dtype=np.float32) for count in frames.tolist()]
    return pad_clips(values, list(range(len(clips))), width)


def frames_of(size: Size, modality: str, number: np.ndarray) -> np.ndarray:
    """Return the frames of clips by their numbers, at least one each."""
    seconds = lognormal_seconds(number) if size.seconds is None else np.full(len(number), size.seconds)
    return np.maximum(1, np.round(seconds * FRAMES_PER_SECOND[modality])).astype(np.int64)


def lognormal_seconds(number: np.ndarray) -> np.ndarray:
    """Return lengths as corpora of acted and natural speech have them: median 3 s, 1 to 12 s, by the clip's number."""
    drawn = np.array([np.random.default_rng([int(clip), 7]).normal() for clip in number])
    return np.clip(3.0 * np.exp(0.5 * drawn), 1.0, 12.0)
