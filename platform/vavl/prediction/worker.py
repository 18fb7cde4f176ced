"""Predict the clips of one part: features first, clip by clip, then the network on a batch of them; and its rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vavl.config.files import written_beside
from vavl.errors import ConfigError, FullDiskError, VavlError, readable
from vavl.features import MODALITIES
from vavl.metrics.names import AUDIO_VIDEO, CONDITIONS, MODALITIES_OF
from vavl.models.clips import CenteredClip, SpeakerMeans
from vavl.models.saved_model import ClipFeatures, Prediction, SavedModel, load_model
from vavl.models.settings import ClassTask, Decision, Task
from vavl.prediction.sources import ClipInput, FaceSpan, MediaClips, MediaSource, Side, Source, StoreClips
from vavl.workers.attempts import Attempts, TimeLimit


@dataclass(frozen=True)
class Problem:
    """What is wrong with a clip or with one modality of it."""

    side: str  # "audio", "video", or empty for the whole clip
    file: str  # as the input names it
    problem: str  # for a person

    @classmethod
    def of(cls, side: str, file: str, error: Exception) -> Problem:
        """Describe what was raised; anything but an error of ours is named by its class."""
        if isinstance(error, VavlError):
            # The field of an error about a clip is its side, or "clip" where the time limit rang.
            return cls(error.field if error.field in MODALITIES else side, file, readable(error.problem))
        return cls(side, file, readable(f"unexpected error: {type(error).__name__}: {error}"))

    def __str__(self) -> str:
        return f"{self.side}: {self.problem}" if self.side else self.problem


@dataclass
class ClipWork:
    """One clip, from its files to what is to be said of it."""

    key: str  # of the clip and all that its prediction depends on
    clip: ClipInput
    files: Mapping[str, str] = field(default_factory=dict)
    sides: dict[str, Sequence[Side]] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    # of each condition that was asked for and that the clip allows, and the face that it is about.
    predictions: list[tuple[Prediction, FaceSpan | None]] = field(default_factory=list)


_TEXT, _NUMBER = pa.string(), pa.float64()
FACE_COLUMNS = {"face_track": pa.int16(), "face_start_s": _NUMBER, "face_end_s": _NUMBER, "face_box": _TEXT}


def value_columns(task: Task) -> tuple[str, ...]:
    """Return the names of the columns of numbers: ``probability_<class>``, or the attributes."""
    return tuple(f"probability_{name}" for name in task.classes) if isinstance(task, ClassTask) else task.attributes


def part_schema(task: Task) -> pa.Schema:
    """Return the columns of a part's file."""
    # rank: order of the rows of one clip; problems: JSON
    before = {"key": _TEXT, "rank": pa.int8(), "condition": _TEXT, "label": _TEXT}
    after = {"distance": _NUMBER, "warning": _TEXT, "error": _TEXT, "audio_seconds": _NUMBER, "video_seconds": _NUMBER}
    columns = before | dict.fromkeys(value_columns(task), _NUMBER) | after | {"problems": _TEXT} | FACE_COLUMNS
    return pa.schema(list(columns.items()))


def rows_of(clip: ClipWork, task: Task) -> list[dict[str, Any]]:
    """Return the rows of a clip: one for each prediction, or one that says why there is none."""
    common = {
        "key": clip.key,
        "error": "; ".join(map(str, clip.problems)) or None,
        **{f"{modality}_seconds": sides[0].seconds for modality, sides in clip.sides.items()},
        "problems": json.dumps([asdict(problem) for problem in clip.problems], ensure_ascii=False),
    }
    names = value_columns(task)
    rows = []
    for found, face in clip.predictions:
        said = {
            "condition": found.condition,
            "label": found.label or None,
            "rank": CONDITIONS.index(found.condition) + (len(CONDITIONS) * face.face_track if face else 0),
            **(face._asdict() if face else {}),
            "distance": found.distance,
            "warning": found.warning or None,
        }
        rows.append({**common, **said, **dict(zip(names, found.values, strict=True))})
    return rows or [{**common, "rank": 0}]


def decided(rows: pa.Table, task: Task, decision: Decision | None) -> pa.Table:
    """Choose the labels of rows anew; the reason of one that has none goes in front of its warning."""
    if decision is None:
        return rows
    names = value_columns(task)
    values = np.stack([rows[name].to_numpy().astype(np.float64) for name in names], axis=1)
    values, labels, reasons = decision.apply(values)
    warnings = [
        "; ".join(filter(None, (reason, warning))) or None
        for reason, warning in zip(reasons, rows["warning"].to_pylist(), strict=True)
    ]
    columns = {name: rows[name] for name in rows.column_names}
    columns |= {name: pa.array(values[:, place], from_pandas=True) for place, name in enumerate(names)}
    columns |= {"label": pa.array(labels, pa.string()), "warning": pa.array(warnings, pa.string())}
    return pa.table(columns)


@dataclass(frozen=True)
class ClipPart:
    """What a process works on."""

    path: Path  # of its file
    clips: tuple[tuple[str, ClipInput], ...]  # key and clip

    @property
    def marker(self) -> Path:
        """File that names the clip in work, for the case that the process ends in the middle of it."""
        return self.path.with_name(f".{self.path.stem}.current")


@dataclass(frozen=True)
class PredictionWork:
    """How parts are done; travels to the workers."""

    model_directory: Path  # of the model
    source: Source  # of the features
    conditions: tuple[str, ...] | None  # a prediction for each that a clip allows; None: one, from all that a clip has
    clips_per_batch: int  # clips that go through the network at once
    limit: TimeLimit  # longest time for one clip
    device: str = "cpu"  # of the network, "cpu" or "cuda"

    @cached_property
    def model(self) -> SavedModel:
        """The model, loaded in the process that works."""
        return load_model(self.model_directory).to(self.device)

    @cached_property
    def _reader(self) -> MediaClips | StoreClips:
        return self.source.reader(self.model.description)

    def __call__(self, part: ClipPart) -> tuple[Path, int]:
        """Predict the clips of a part and write its file; return that and their number.

        Raises:
            VavlError: what concerns more than one clip: a model that cannot be loaded, a device that is not there,
                settings of an extractor, a store that is gone.
        """
        task = self.model.description.task
        rows = [row for clip in self._clips(part) for row in rows_of(clip, task)]
        with written_beside(part.path) as partial:
            pq.write_table(pa.Table.from_pylist(rows, schema=part_schema(task)), partial)
        return part.path, len(part.clips)

    def _clips(self, part: ClipPart) -> Iterator[ClipWork]:
        """Yield each clip with its predictions, in order; the features of one batch are in memory."""
        attempts = Attempts(part.marker, self.limit)
        try:
            self._reader.prepare([clip for _, clip in part.clips])
            means, size = self.model.speaker_means(), self.clips_per_batch
            for start in range(0, len(part.clips), size):
                clips = [self._read(key, clip, attempts) for key, clip in part.clips[start : start + size]]
                self._predict(clips, means)
                yield from clips
        finally:
            # Only a process that ends without a word leaves its marker behind.
            attempts.finish()

    def _read(self, key: str, clip: ClipInput, attempts: Attempts) -> ClipWork:
        """Read the modalities of a clip; whatever a damaged file provokes concerns that modality only."""
        found = ClipWork(key, clip)
        try:
            # Media may do anything to a decoder; watching the rows of a store would take longer than reading them.
            is_watched = isinstance(self.source, MediaSource)
            with attempts.at(clip.clip_id, clip.name, "clip") if is_watched else nullcontext():
                found.files = self._reader.sides(clip)
                for modality, file in found.files.items():
                    self._read_side(found, modality, file)
        except (ConfigError, FullDiskError, KeyboardInterrupt):
            raise
        except Exception as error:  # noqa: BLE001  it took too long, or ended a process before
            found.sides.clear()
            found.problems.append(Problem.of("", clip.name, error))
        return found

    def _read_side(self, found: ClipWork, modality: str, file: str) -> None:
        if not getattr(self.model.description, modality).trained:
            return
        try:
            found.sides[modality] = self._reader.read(found.clip, modality, file)
        except ConfigError:
            raise
        except Exception as error:
            # The alarm of the time limit rang: what it interrupts is not the error of one modality.
            if isinstance(error, VavlError) and error.field == "clip":
                raise
            found.problems.append(Problem.of(modality, file, error))

    def _predict(self, clips: Sequence[ClipWork], means: SpeakerMeans | None) -> None:
        asked: list[tuple[ClipWork, ClipFeatures, FaceSpan | None]] = []
        for clip in clips:
            if means is not None:
                _center(clip, means)
            kind = ClipFeatures if means is None else CenteredClip
            wanted = [(clip, kind(**features), face) for features, face in self._views(clip.sides)]
            if not wanted and not clip.problems:
                clip.problems.append(Problem("", clip.clip.name, _nothing_to_see(clip)))
            asked += wanted
        found = _predicted(self.model, [features for _, features, _ in asked])
        for (clip, _, face), prediction in zip(asked, found, strict=True):
            if isinstance(prediction, Exception):
                clip.problems.append(Problem.of("", clip.clip.name, prediction))
            elif not np.isfinite(prediction.values).all():
                clip.problems.append(Problem("", clip.clip.name, "the prediction is not finite"))
            else:
                clip.predictions.append((prediction, face))

    def _views(self, sides: Mapping[str, Sequence[Side]]) -> Iterator[tuple[Mapping[str, Any], FaceSpan | None]]:
        """Yield the clip as each condition sees it, for every face that the condition sees."""
        known = [name for name in self.conditions or () if name != AUDIO_VIDEO or self.model.description.fusion_trained]
        wanted = [MODALITIES_OF[name] for name in known]
        if self.conditions is None and sides:
            wanted = [tuple(sides)]
        for needed in wanted:
            if not all(modality in sides for modality in needed):
                continue
            for views in product(*(sides[modality] for modality in needed)):
                features = {modality: side.values for modality, side in zip(needed, views, strict=True)}
                yield features, next((side.face for side in views if side.face), None)


def _nothing_to_see(clip: ClipWork) -> str:
    if clip.sides:
        return f"has {' and '.join(clip.sides)} alone, which none of the conditions asked for takes"
    if clip.files:
        return f"has {' and '.join(clip.files)} alone, which the model was not trained on"
    return "has neither audio nor video that the model can use"


def _center(clip: ClipWork, means: SpeakerMeans) -> None:
    """Take the mean of the speaker's earlier clips off; the plan has refused several faces for such a model."""
    raw = {modality: sides[0].values for modality, sides in clip.sides.items()}
    values = means.centered(raw, str(clip.clip.speaker))
    clip.sides = {modality: [replace(sides[0], values=values[modality])] for modality, sides in clip.sides.items()}


def _predicted(model: SavedModel, clips: Sequence[ClipFeatures]) -> list[Prediction | Exception]:
    """Predict clips together; where one spoils the batch, one by one."""
    try:
        return [*model.predict(clips)]
    except Exception as error:  # noqa: BLE001  whatever the features of a clip provoke concerns it alone
        if len(clips) == 1:
            return [error]
    return [_predicted(model, [clip])[0] for clip in clips]
