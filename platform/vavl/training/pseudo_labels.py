"""Predictions from a file in place of a teacher; ``pseudo_labels.parquet``: what was predicted; and an alarm.

One row per clip and step: ``step``, ``clip_id``, ``weight`` in the loss; of classes ``label`` (most probable of the
target), ``confidence`` (largest probability of the teacher), ``kept`` (it counted in the loss), and
``vote_audio_video``, ``vote_audio``, ``vote_video``: the class of each condition that the clip has and labels train; of
attributes ``predicted_<attribute>``.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch import Tensor

from vavl.config.files import written_beside
from vavl.data.batch import ClipBatch
from vavl.errors import InputError
from vavl.metrics.names import CONDITIONS
from vavl.models.settings import AttributeTask, ClassTask, Task
from vavl.objectives.pseudo_label import PseudoTarget, TeacherPrediction
from vavl.training.collectives import gather_shards
from vavl.training.storage import WorkerOutput

PSEUDO_LABELS_FILE = "pseudo_labels.parquet"
ALARM_STEPS = 200
"""Steps, or one epoch if that is longer, over which the share of kept pseudo-labels is taken for the alarm."""
LEAST_KEPT, MOST_KEPT = 0.01, 0.95
_SUM_TOLERANCE = 1e-3


@dataclass(frozen=True)
class GivenPredictions:
    """What a file predicts of clips, in place of a teacher."""

    values: Tensor  # (clips of the manifest, outputs), float32: class probabilities or attributes
    is_taught: Tensor  # (clips of the manifest,), float32: 1 for training clips that the file names

    @classmethod
    def read(
        cls, path: Path, clip_ids: pa.ChunkedArray, training_rows: NDArray[np.int64], task: Task
    ) -> GivenPredictions:
        """Read the predictions of training clips.

        ``path``: Parquet file with ``clip_id`` and ``predicted_<name>`` of every class or attribute. ``training_rows``:
        of the manifest; what the file says of other clips is not read.

        Raises:
            InputError: there is no such file, it is of other outputs, or it names no training clip.
        """
        names = [f"predicted_{name}" for name in (task.classes if isinstance(task, ClassTask) else task.attributes)]
        try:
            table = pq.read_table(path)
        except (OSError, pa.ArrowInvalid) as error:
            fix = "write one with jobs/distill_models.py, or set objectives.pseudo_label.predictions=null"
            raise InputError(str(path), "", f"cannot be read: {error}", fix) from None
        if missing := [name for name in ("clip_id", *names) if name not in table.column_names]:
            raise InputError(str(path), ", ".join(missing), "is missing", "predict with a model of the same task")
        given = np.stack([table[name].to_numpy() for name in names], axis=1)
        place = pc.index_in(clip_ids, table["clip_id"]).fill_null(-1).to_numpy()
        is_taught = np.zeros(len(place), bool)
        is_taught[training_rows] = place[training_rows] >= 0
        values = given[place[is_taught]]
        if not is_taught.any():
            problem = "names no training clip of this run"
        elif not np.isfinite(values).all():
            problem = "holds values that are not finite"
        elif isinstance(task, ClassTask) and (values.min() < 0 or np.abs(values.sum(1) - 1).max() > _SUM_TOLERANCE):
            problem = "holds values that are no probabilities: those of a clip must sum to 1"
        else:
            whole = np.zeros((len(place), len(names)), np.float32)
            whole[is_taught] = values
            return cls(torch.from_numpy(whole), torch.from_numpy(is_taught.astype(np.float32)))
        raise InputError(str(path), "predictions", problem, "predict the training clips with a model of the same task")

    def to(self, device: torch.device) -> GivenPredictions:
        """Copy to ``device``."""
        return GivenPredictions(self.values.to(device), self.is_taught.to(device))

    def of(self, batch: ClipBatch) -> TeacherPrediction:
        """Look up the clips of a micro-batch."""
        row = batch.index.clamp_min(0)
        is_taught = self.is_taught[row] * (batch.index >= 0)
        values = self.values[row] * is_taught.unsqueeze(-1)
        votes = torch.full((batch.clips, len(CONDITIONS)), -1, device=row.device)
        return TeacherPrediction(values, is_taught, torch.zeros_like(values), votes)


class PseudoLabels:
    """Collects the rows of this rank on its device, and writes those of all ranks with every checkpoint.

    A step costs a few copies on the device; the host waits for nothing before ``write``. Rank 0 holds the whole table,
    some 60 bytes per unlabeled clip and step.

    ``step``: first step of this attempt; what the file holds of it and later ones is dropped.
    """

    def __init__(self, output: WorkerOutput, clip_ids: pa.ChunkedArray, task: Task, rank: int, step: int) -> None:
        self._output, self._clip_ids, self._rank = output, clip_ids, rank
        self._task = task
        self._rows: list[Tensor] = []
        self._written: list[pa.Table] = []
        file = output.fetch_file(PSEUDO_LABELS_FILE) if rank == 0 and step else None
        if file is not None:
            self._written.append(pq.read_table(file, filters=[("step", "<", step)]))

    def add(
        self,
        step: int,
        batches: Sequence[ClipBatch],
        predicted: Sequence[TeacherPrediction | None],
        targets: Sequence[PseudoTarget | None],
    ) -> None:
        """Take the pseudo-labels of the micro-batches of a step."""
        for batch, teacher, target in zip(batches, predicted, targets, strict=True):
            if teacher is None or target is None:
                continue
            clip = torch.where(teacher.is_taught > 0, batch.index, -1)
            of_task: tuple[Tensor, ...] = tuple(target.target.T)
            if isinstance(self._task, ClassTask):
                of_task = (target.target.argmax(-1), teacher.values.amax(-1), *teacher.votes.T)
            columns = (torch.full_like(clip, step), clip, target.weight, *of_task)
            self._rows.append(torch.stack([column.double() for column in columns], dim=1))

    def write(self) -> None:
        """Write the file anew with what was added since the last call. Every rank must call."""
        if not self._rows:
            return
        # Every rank has as many rows: micro-batches are filled up.
        own = torch.cat(self._rows)
        rows = gather_shards(own.flatten()).view(-1, own.shape[1])
        self._rows = []
        if self._rank != 0:
            return
        self._written.append(self._table(rows.cpu()))
        with written_beside(self._output.directory / PSEUDO_LABELS_FILE) as partial:
            pq.write_table(pa.concat_tables(self._written), partial)
        self._output.publish(PSEUDO_LABELS_FILE)

    def _table(self, rows: Tensor) -> pa.Table:
        step, clip, weight, *of_task = rows[rows[:, 1] >= 0].numpy().T
        columns = {
            "step": pa.array(step).cast(pa.int32()),
            "clip_id": self._clip_ids.take(pa.array(clip).cast(pa.int64())).combine_chunks(),
        }
        match self._task:
            case ClassTask(classes=classes):

                def names(numbers: NDArray[np.float64]) -> pa.Array:
                    places = pa.array(numbers, mask=numbers < 0).cast(pa.int32())
                    return pa.DictionaryArray.from_arrays(places, pa.array(classes))

                label, confidence, *votes = of_task
                columns |= {
                    "label": names(label),
                    "confidence": pa.array(confidence).cast(pa.float32()),
                    "kept": pa.array(weight > 0),
                    **{f"vote_{name}": names(vote) for name, vote in zip(CONDITIONS, votes, strict=True)},
                }
            case AttributeTask(attributes=attributes):
                columns |= {
                    f"predicted_{name}": pa.array(values).cast(pa.float32())
                    for name, values in zip(attributes, of_task, strict=True)
                }
        # The same order for any number of workers.
        order = [("step", "ascending"), ("clip_id", "ascending")]
        return pa.table({**columns, "weight": pa.array(weight).cast(pa.float32())}).sort_by(order)


class KeptAlarm:
    """Says once when hardly any hard label is kept for long, or nearly all; again after it was between."""

    def __init__(self) -> None:
        self._recent: deque[tuple[float, float]] = deque()
        self._is_raised = False

    def after(self, kept: float, of: float, steps: int) -> str | None:
        """Count a step.

        ``of``: clips that could have one.

        Returns:
            What is wrong, and what may help; None most of the time.
        """
        window = max(ALARM_STEPS, steps)
        self._recent.append((kept, of))
        if len(self._recent) < window:
            return None
        share = sum(one for one, _ in self._recent) / max(1.0, sum(one for _, one in self._recent))
        self._recent.popleft()
        was_raised, self._is_raised = self._is_raised, not LEAST_KEPT <= share <= MOST_KEPT
        if was_raised or not self._is_raised:
            return None
        advice = (
            "they teach nothing; lower objectives.pseudo_label.threshold, set kind: soft, or begin later (start_step)"
            if share < LEAST_KEPT
            else "wrong ones are kept too; raise objectives.pseudo_label.threshold, and look at pseudo_labels.parquet"
        )
        return f"{share:.1%} of the pseudo-labels of the last {window} steps were kept: {advice}"
