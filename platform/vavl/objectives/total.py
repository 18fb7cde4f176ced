"""All objectives of a micro-batch, each normalized over the global batch, and their weighted sum.

Every part is scaled such that its sum over all ranks and micro-batches is the loss of the global
batch. The engine must therefore add gradients up, not average them (``training/engine.py``).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO
from vavl.models.conformer import masked_mean
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.models.vavl import ModalityOutput, VavlOutput
from vavl.objectives.contrastive import contrastive_loss, contrastive_moments
from vavl.objectives.hgr import correlation_moments, soft_hgr_loss
from vavl.objectives.ladder import ladder_loss, ladder_moments
from vavl.objectives.moments import Moments, linked_moments, moments_under, named_moments
from vavl.objectives.predictions import predictions
from vavl.objectives.pseudo_label import PseudoTarget, TeacherPrediction, teacher_moments
from vavl.objectives.reconstruction import reconstruction_error_sum
from vavl.objectives.settings import ObjectivePlugin, ObjectiveSettings, objective_plugin
from vavl.objectives.supervised import concordance_loss, concordance_moments, cross_entropy_sum, squared_error_sum

HGR_PAIRS = (AUDIO_VIDEO, "audio_label", "video_label")


@dataclass(frozen=True)
class Objective:
    """The objectives of a run as functions of a micro-batch.

    Attributes:
        task: classes or attributes.
        settings: which objectives, with their weights.
        ladder_weights: of each layer of the ladder.
        pieces: micro-batches of a global batch over all ranks.
        rows: of a global batch, fillers included.
        labelled: conditions whose heads labels train; pseudo-labels come from these and train these.
    """

    task: Task
    settings: ObjectiveSettings
    ladder_weights: tuple[float, ...]
    pieces: int
    rows: int
    labelled: tuple[str, ...] = CONDITIONS

    @property
    def needs_output_moments(self) -> bool:
        """Tell whether a loss depends on moments of the network's output over the global batch.

        Counts are known from the batch alone; the moments of CCC, soft-HGR, contrast, the ladder and plug-ins are
        not, and with several micro-batches they need a first pass without gradient.
        """
        chosen = self.settings
        needy = (chosen.hgr, chosen.contrastive, chosen.ladder, chosen.plugins)
        return isinstance(self.task, AttributeTask) or any(needy)

    @cached_property
    def _plugins(self) -> dict[str, ObjectivePlugin]:
        return {name: objective_plugin(name) for name in self.settings.plugins}

    def moments(
        self, output: VavlOutput | None, batch: ClipBatch, teacher: TeacherPrediction | None
    ) -> dict[str, Tensor]:
        """Sum over one micro-batch what the objectives need of the global batch.

        Args:
            output: the network's output; may be None unless ``needs_output_moments``.
            batch: the micro-batch.
            teacher: its predictions, when pseudo-labels are configured.

        Returns:
            Float64 sums by name, to be added over micro-batches and ranks. They carry the gradient of
            ``output``.
        """
        both = batch.has_audio * batch.has_video
        found = {
            "clips": (batch.index >= 0).double().sum(),
            "label": (batch.target * batch.is_labelled.unsqueeze(-1)).double().sum(0),
            f"{AUDIO}/clips": batch.audio.weight.double().sum(),
            f"{VIDEO}/clips": batch.video.weight.double().sum(),
            f"{AUDIO}/labelled": (batch.has_audio * batch.is_labelled).double().sum(),
            f"{VIDEO}/labelled": (batch.has_video * batch.is_labelled).double().sum(),
            f"{AUDIO_VIDEO}/labelled": (both * batch.is_labelled).double().sum(),
        }
        if teacher is not None:
            found |= named_moments("teacher", teacher_moments(teacher))
            for condition, has in ((AUDIO, batch.has_audio), (VIDEO, batch.has_video), (AUDIO_VIDEO, both)):
                found[f"{condition}/taught"] = (has * teacher.is_taught).double().sum()
        if output is not None:
            found |= self._output_moments(output, batch)
        return found

    def parts(
        self, output: VavlOutput, batch: ClipBatch, local: Moments, together: Moments, pseudo: PseudoTarget | None
    ) -> dict[str, Tensor]:
        """Return the unweighted parts of the objective.

        Args:
            output: of this micro-batch.
            batch: this micro-batch.
            local: ``moments`` of this output, with their gradient.
            together: ``moments`` added over all micro-batches and ranks, without gradient.
            pseudo: pseudo-labels, when they are configured.

        Returns:
            Scalars by name; each, summed over all micro-batches and ranks, is the part's global value.
        """
        found = self._supervised(output, batch, local, together)
        for name, clips, path in ((AUDIO, batch.audio, output.audio), (VIDEO, batch.video, output.video)):
            found[f"reconstruction/{name}"] = _reconstruction(clips, path, together[f"{name}/clips"])
        for pair in HGR_PAIRS if self.settings.hgr else ():
            prefix = f"hgr/{pair}"
            found[prefix] = self._shared_value(
                soft_hgr_loss(moments_under(prefix, together), moments_under(prefix, local))
            )
        if self.settings.contrastive:
            sides = moments_under("contrastive", together), moments_under("contrastive", local)
            found["contrastive"] = self._shared_value(contrastive_loss(*sides, self.settings.contrastive.temperature))
        for name in (AUDIO, VIDEO) if output.ladder is not None else ():
            prefix = f"ladder/{name}"
            loss = ladder_loss(moments_under(prefix, together), moments_under(prefix, local), self.ladder_weights)
            found[prefix] = self._shared_value(loss)
        for name, plugin in self._plugins.items():
            prefix = f"plugins/{name}"
            sums = linked_moments(moments_under(prefix, together), moments_under(prefix, local))
            found[name] = self._shared_value(plugin.loss(self.settings.plugins[name], sums).float().reshape(()))
        if pseudo is not None:
            found |= self._pseudo_label(output, batch, pseudo, together)
        return found

    def weighted(self, parts: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return every part times its weight at an optimizer step."""
        weights, hgr = self.settings.weights_at(step), self.settings.hgr
        pairs = {f"hgr/{pair}": getattr(hgr, pair) for pair in HGR_PAIRS} if hgr else {}
        return {name: weights[name.partition("/")[0]] * pairs.get(name, 1.0) * part for name, part in parts.items()}

    def _output_moments(self, output: VavlOutput, batch: ClipBatch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if isinstance(self.task, AttributeTask):
            for condition, predicted in predictions(output, batch).items():
                target = batch.target[predicted.clip]
                found |= named_moments(
                    f"{condition}/ccc", concordance_moments(predicted.logits, target, predicted.weight)
                )
        if self.settings.hgr:
            found |= hgr_moments(output, batch)
        if output.contrast is not None:
            found |= named_moments("contrastive", contrastive_moments(*output.contrast, batch, self.rows))
        if output.ladder is not None:
            found |= named_moments(f"ladder/{AUDIO}", ladder_moments(output.ladder.audio, batch.audio))
            found |= named_moments(f"ladder/{VIDEO}", ladder_moments(output.ladder.video, batch.video))
        for name, plugin in self._plugins.items():
            sums = plugin.moments(self.settings.plugins[name], output, batch)
            found |= named_moments(f"plugins/{name}", {part: value.double() for part, value in sums.items()})
        return found

    def _supervised(self, output: VavlOutput, batch: ClipBatch, local: Moments, together: Moments) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for condition, predicted in predictions(output, batch).items():
            match self.task:
                case ClassTask():
                    target = _smoothed(batch.target[predicted.clip], self.settings.supervised.label_smoothing)
                    total = cross_entropy_sum(predicted.logits, target, predicted.weight)
                    found[f"supervised/{condition}"] = _mean(total, together[f"{condition}/labelled"])
                case AttributeTask():
                    prefix = f"{condition}/ccc"
                    loss = concordance_loss(moments_under(prefix, together), moments_under(prefix, local))
                    found[f"supervised/{condition}"] = self._shared_value(loss)
        return found

    def _pseudo_label(
        self, output: VavlOutput, batch: ClipBatch, pseudo: PseudoTarget, together: Moments
    ) -> dict[str, Tensor]:
        """Return the loss against pseudo-labels, over the number of *all* taught clips (FixMatch, eq. 4)."""
        found = {}
        offered = predictions(output, batch, labelled_only=False)
        for condition in self.labelled:
            logits, clip = offered[condition].logits, offered[condition].clip
            target, weight = pseudo.target[clip], offered[condition].weight * pseudo.weight[clip]
            match self.task:
                case ClassTask():
                    total = cross_entropy_sum(logits, target, weight)
                case AttributeTask():
                    total = squared_error_sum(logits, target, weight, pseudo.variance)
            found[f"pseudo_label/{condition}"] = _mean(total, together[f"{condition}/taught"])
        return found

    def _shared_value(self, loss: Tensor) -> Tensor:
        """Let a value that every piece computes whole count once in the sum, with its gradient intact."""
        return loss.detach() / self.pieces + (loss - loss.detach())


def hgr_moments(output: VavlOutput, batch: ClipBatch) -> dict[str, Tensor]:
    """Sum what soft-HGR of the three pairs needs: ``hgr/<pair>/<moment>``."""
    found: dict[str, Tensor] = {}
    rows = {}
    for name, clips, path in ((AUDIO, batch.audio, output.audio), (VIDEO, batch.video, output.video)):
        label = output.label_correlation[clips.clip]
        labelled = clips.weight * batch.is_labelled[clips.clip]
        found |= named_moments(f"hgr/{name}_label", correlation_moments(path.correlation, label, labelled))
        rows[name] = torch.zeros_like(output.label_correlation).index_copy(0, clips.clip, path.correlation)
    pairs = batch.has_audio * batch.has_video
    return found | named_moments(f"hgr/{AUDIO_VIDEO}", correlation_moments(rows[AUDIO], rows[VIDEO], pairs))


def _reconstruction(clips: ModalityBatch, path: ModalityOutput, count: Tensor) -> Tensor:
    target = masked_mean(clips.values, clips.is_real)
    return _mean(reconstruction_error_sum(path.reconstruction, target, clips.weight), count)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    # No clip of the global batch carries the loss: the part is 0 and so is its gradient.
    return total / count.clamp_min(1).to(total.dtype)


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / target.shape[-1] if smoothing else target
