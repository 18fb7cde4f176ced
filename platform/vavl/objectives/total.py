"""All objectives of a micro-batch, each normalized over the global batch, and their weighted sum.

Every part is scaled such that its sum over all ranks and micro-batches is the loss of the global
batch. The engine must therefore add gradients up, not average them (``training/engine.py``).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO
from vavl.models.conformer import masked_mean
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.models.vavl import ModalityOutput, VavlOutput, spread
from vavl.objectives.contrastive import contrastive_loss, contrastive_moments
from vavl.objectives.hgr import correlation_moments, soft_hgr_loss
from vavl.objectives.ladder import ladder_loss, ladder_moments
from vavl.objectives.moments import Moments, linked_moments, moments_under, named_moments
from vavl.objectives.predictions import conditions_there, predictions
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
        there = conditions_there(batch).double()
        found = {
            "clips": (batch.index >= 0).double().sum(),
            "label": (batch.target * batch.is_labelled.unsqueeze(-1)).double().sum(0),
            # (conditions,) each.
            "there": there.sum(-1),
            "labelled": (there * batch.is_labelled).sum(-1),
        }
        if teacher is not None:
            found |= named_moments("teacher", teacher_moments(teacher))
            found["taught"] = (there * teacher.is_taught).sum(-1)
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
        logits, there = predictions(output, batch), conditions_there(batch)
        found = _named("supervised", CONDITIONS, self._supervised(logits, there, batch, local, together))
        for name, clips, path in ((AUDIO, batch.audio, output.audio), (VIDEO, batch.video, output.video)):
            count = together["there"][CONDITIONS.index(name)]
            found[f"reconstruction/{name}"] = _reconstruction(clips, path, count)
        if self.settings.hgr:
            loss = soft_hgr_loss(moments_under("hgr", together), moments_under("hgr", local))
            found |= _named("hgr", HGR_PAIRS, self._shared_value(loss))
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
            taught = _named("pseudo_label", CONDITIONS, self._pseudo_label(logits, there, pseudo, together))
            found |= {name: part for name, part in taught.items() if name.rpartition("/")[2] in self.labelled}
        return found

    def weighted(self, parts: Mapping[str, Tensor], step: int) -> dict[str, Tensor]:
        """Return every part times its weight at an optimizer step."""
        weights, hgr = self.settings.weights_at(step), self.settings.hgr
        pairs = {f"hgr/{pair}": getattr(hgr, pair) for pair in HGR_PAIRS} if hgr else {}
        found = {}
        for name, part in parts.items():
            weight = weights[name.partition("/")[0]] * pairs.get(name, 1.0)
            found[name] = part if weight == 1 else weight * part
        return found

    def _output_moments(self, output: VavlOutput, batch: ClipBatch) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if isinstance(self.task, AttributeTask):
            counts = conditions_there(batch) * batch.is_labelled
            found |= named_moments("ccc", concordance_moments(predictions(output, batch), batch.target, counts))
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

    def _supervised(self, logits: Tensor, there: Tensor, batch: ClipBatch, local: Moments, together: Moments) -> Tensor:
        """Return the task loss (conditions,)."""
        match self.task:
            case ClassTask():
                target = _smoothed(batch.target, self.settings.supervised.label_smoothing)
                return _mean(cross_entropy_sum(logits, target, there * batch.is_labelled), together["labelled"])
            case AttributeTask():
                loss = concordance_loss(moments_under("ccc", together), moments_under("ccc", local))
                return self._shared_value(loss)

    def _pseudo_label(self, logits: Tensor, there: Tensor, pseudo: PseudoTarget, together: Moments) -> Tensor:
        """Return the loss (conditions,) against pseudo-labels, over *all* taught clips (FixMatch, eq. 4)."""
        match self.task:
            case ClassTask():
                total = cross_entropy_sum(logits, pseudo.target, there * pseudo.weight)
            case AttributeTask():
                total = squared_error_sum(logits, pseudo.target, there * pseudo.weight, pseudo.variance)
        return _mean(total, together["taught"])

    def _shared_value(self, loss: Tensor) -> Tensor:
        """Let a value that every piece computes whole count once in the sum, with its gradient intact."""
        return loss if self.pieces == 1 else loss.detach() / self.pieces + (loss - loss.detach())


def hgr_moments(output: VavlOutput, batch: ClipBatch) -> dict[str, Tensor]:
    """Sum what soft-HGR of the three pairs needs, in the order of HGR_PAIRS: ``hgr/<moment>``."""
    audio, video = (
        spread(path.correlation, clips.clip, batch.clips)
        for path, clips in ((output.audio, batch.audio), (output.video, batch.video))
    )
    label = output.label_correlation
    first, second = torch.stack((audio, audio, video)), torch.stack((video, label, label))
    there = conditions_there(batch)
    weight = torch.cat((there[:1], there[1:] * batch.is_labelled))  # the pair of audio and video needs no label
    return named_moments("hgr", correlation_moments(first, second, weight))


def _named(prefix: str, names: Sequence[str], parts: Tensor) -> dict[str, Tensor]:
    return {f"{prefix}/{name}": part for name, part in zip(names, parts.unbind(), strict=True)}


def _reconstruction(clips: ModalityBatch, path: ModalityOutput, count: Tensor) -> Tensor:
    target = masked_mean(clips.values, clips.mask)
    return _mean(reconstruction_error_sum(path.reconstruction, target, clips.weight), count)


def _mean(total: Tensor, count: Tensor) -> Tensor:
    # No clip of the global batch carries the loss: the part is 0 and so is its gradient.
    return total / count.clamp_min(1).to(total.dtype)


def _smoothed(target: Tensor, smoothing: float) -> Tensor:
    return target * (1 - smoothing) + smoothing / target.shape[-1] if smoothing else target
