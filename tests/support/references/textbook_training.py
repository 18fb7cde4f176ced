"""A step of the published training procedure, written for the benchmark: what the platform is compared with.

It follows VAVL (Goncalves et al., arXiv 2305.07216) and its published training script:

- three passes one after the other, each with a backward and an optimizer step of its own: video, audio, fusion;
- an Adam per module, as torch makes it by default, without clipping (the script has none);
- the task's loss + 2 x the reconstruction for each modality, the task's loss alone for the fusion;
- float32, or torch's autocast to bf16 over each forward, as the script does it with float16 on a GPU;
- the fusion pass runs both encoders in evaluation mode and keeps their graph: the script's backward goes through all
  of it, and the gradients that arrive in the encoders are thrown away by the next ``zero_grad``. ``detached`` leaves
  that backward and that graph out, as the paper's equations would allow; a benchmark names which of the two it shows.

What is kinder than the script: attention and convolution across time and masked, as the paper says; projections to
the full width without a bottleneck of 50 as our network has them, so that both compute the same products; features
come ready and padded, the speech model is not part of the step; nothing is built that is never used.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext

import torch
from textbook_blocks import TextbookBlock
from torch import Tensor, nn
from torch.nn import functional

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.models.conformer import masked_mean
from vavl.models.settings import NetworkSettings

RECONSTRUCTION_WEIGHT = 2.0


class TextbookEncoder(nn.Module):
    """Projection and Conformer blocks of one modality."""

    def __init__(self, settings: NetworkSettings, width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(width, settings.width)
        self.blocks = nn.ModuleList(TextbookBlock(settings) for _ in range(settings.modality_blocks))

    def forward(self, clips: ModalityBatch) -> Tensor:
        """Map to (clips, time, width)."""
        frames: Tensor = self.projection(clips.values)
        for block in self.blocks:
            frames = block(frames, clips.is_real)
        return frames


class TextbookShared(nn.Module):
    """The blocks for both modalities: masked mean of LayerNorm(S(x) + x)."""

    def __init__(self, settings: NetworkSettings) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(TextbookBlock(settings) for _ in range(settings.shared_blocks))
        self.norm = nn.LayerNorm(settings.width)

    def forward(self, frames: Tensor, is_real: Tensor) -> Tensor:
        """Map (clips, time, width) to (clips, width)."""
        top = frames
        for block in self.blocks:
            top = block(top, is_real)
        return masked_mean(self.norm(top + frames), is_real)


class TextbookTraining:
    """The nine modules of the published script with an optimizer each.

    Args:
        settings: sizes; those of the platform's network.
        widths: channels of an audio and a video frame.
        outputs: classes.
        bf16: forward passes under autocast.
        detached: leave out the backward of the fusion pass through the encoders; see the module's text.
    """

    def __init__(
        self,
        settings: NetworkSettings,
        widths: tuple[int, int],
        outputs: int,
        *,
        bf16: bool = False,
        detached: bool = False,
    ) -> None:
        audio, video = widths
        self.bf16, self.detached = bf16, detached
        self.audio, self.video = TextbookEncoder(settings, audio), TextbookEncoder(settings, video)
        self.shared = TextbookShared(settings)
        width = settings.width
        self.audio_head, self.video_head = (_head(width, outputs, settings) for _ in range(2))
        self.audio_reconstruction = _head(width, audio, settings)
        self.video_reconstruction = _head(width, video, settings)
        self.fusion_head = _head(2 * width, outputs, settings)
        self._optimizer = {
            id(module): torch.optim.Adam(module.parameters(), lr=5e-5, betas=(0.95, 0.999), weight_decay=5e-7)
            for module in self.modules()
        }

    def modules(self) -> tuple[nn.Module, ...]:
        """Return every module."""
        return (
            self.audio, self.video, self.shared, self.audio_head, self.video_head,
            self.audio_reconstruction, self.video_reconstruction, self.fusion_head,
        )  # fmt: skip

    def step(self, batch: ClipBatch) -> dict[str, float]:
        """Take the three passes over clips that all have both modalities and a label; return their losses."""
        for module in self.modules():
            module.train()
        parts = {
            "video": self._unimodal(
                batch.video, batch.target, (self.video, self.video_head, self.video_reconstruction)
            ),
            "audio": self._unimodal(
                batch.audio, batch.target, (self.audio, self.audio_head, self.audio_reconstruction)
            ),
            "fusion": self._fusion(batch),
        }
        return {name: float(loss) for name, loss in parts.items()}

    def parameter_count(self) -> int:
        """Count the weights."""
        return sum(weight.numel() for module in self.modules() for weight in module.parameters())

    def _unimodal(
        self, clips: ModalityBatch, target: Tensor, modules: tuple[nn.Module, nn.Module, nn.Module]
    ) -> Tensor:
        encoder, head, reconstruction = modules
        with self._autocast(clips.values.device):
            top = self.shared(encoder(clips), clips.is_real)
            loss = functional.cross_entropy(head(top), target)
            mean = masked_mean(clips.values, clips.is_real)
            loss = loss + RECONSTRUCTION_WEIGHT * functional.mse_loss(reconstruction(top), mean)
        self._update(loss, (encoder, self.shared, head, reconstruction))
        return loss.detach()

    def _fusion(self, batch: ClipBatch) -> Tensor:
        for module in (self.audio, self.video, self.shared):
            module.eval()
        with self._autocast(batch.target.device):
            with torch.no_grad() if self.detached else nullcontext():
                both = torch.cat(
                    [
                        self.shared(encoder(clips), clips.is_real)
                        for encoder, clips in ((self.audio, batch.audio), (self.video, batch.video))
                    ],
                    dim=-1,
                )
            loss = functional.cross_entropy(self.fusion_head(both), batch.target)
        self._update(loss, (self.fusion_head,))
        return loss.detach()

    def _autocast(self, device: torch.device) -> torch.autocast:
        return torch.autocast(device.type, dtype=torch.bfloat16, enabled=self.bf16)

    def _update(self, loss: Tensor, modules: Iterable[nn.Module]) -> None:
        optimizers = [self._optimizer[id(module)] for module in modules]
        for optimizer in optimizers:
            optimizer.zero_grad(set_to_none=True)
        loss.backward()
        for optimizer in optimizers:
            optimizer.step()


def _head(width: int, outputs: int, settings: NetworkSettings) -> nn.Sequential:
    first, second = settings.head_widths
    return nn.Sequential(
        nn.Linear(width, first),
        nn.ReLU(),
        nn.Dropout(settings.head_dropout),
        nn.Linear(first, second),
        nn.ReLU(),
        nn.Linear(second, outputs),
    )
