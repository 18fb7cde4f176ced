"""Rows of a caller's table as clips: where each side comes from, and what is wrong with a row."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.config.plugins import missing_plugin
from vavl.errors import InputError, NoSignalError, VavlError, readable
from vavl.models.clips import CenteredClip, ClipFeatures
from vavl.models.saved_model import Prediction, SavedModel
from vavl.models.settings import Decision, decision_of, decision_settings

SOURCES = ("features", "path", "bytes")
INPUT_COLUMNS = (
    *(f"{modality}_{source}" for source in SOURCES for modality in ("audio", "video")),
    "media_path",
    "media_bytes",
)
"""All optional. What stands first wins where a row gives one modality twice."""

SPEAKER_COLUMN = "speaker"
"""Needed by a model that takes the mean of each speaker's earlier clips off; other models do not look at it."""

SERVED_ROOT_VARIABLE = "VAVL_SERVED_ROOT"
"""Directory that paths of requests have to lie below; empty: no path is read, bytes alone."""

_ROWS_AT_ONCE = 256
"""Rows whose features are held in memory together."""

Row = Mapping[str, Any]


class RowPredictor:
    """Predicts rows of features, media paths and bytes of media; no row changes another's answer.

    Several threads may call it: a server answers its requests next to each other.
    """

    def __init__(self, model: SavedModel) -> None:
        self.model = model
        self._media: Any = None  # a MediaReader, which rows of ready features need not import
        # The detectors of faces keep a clip's state while they follow it.
        self._extracting = Lock()
        self._means = model.speaker_means()
        self._centering = Lock()

    def decision(self, params: Mapping[str, Any]) -> Decision | None:
        """Return what the parameters of a call ask for; empty ones ask for nothing.

        Raises:
            ConfigError: a class that the model lacks, or another value that cannot be used.
        """
        given = {name: value for name, value in params.items() if value not in (None, [], {})}
        settings = decision_settings(given, "params")
        return decision_of(settings, self.model.description.task, self.model.description.class_shares, "params")

    def missing_plugins(self) -> dict[str, str]:
        """Say by modality which extractor is not installed here; see ``vavl.config.plugins.missing_plugin``."""
        found = {name: missing_plugin(one) for name, one in self.model.description.extractors.items()}
        return {name: missing for name, missing in found.items() if missing is not None}

    def predict(self, columns: Mapping[str, Sequence[Any]]) -> list[Prediction | str]:
        """Return the prediction of each row, or the text of its error.

        Args:
            columns: of equal length, by names of INPUT_COLUMNS and SPEAKER_COLUMN. None, NaN and empty texts count as
                not given.
        """
        rows = [dict(zip(columns, cells, strict=True)) for cells in zip(*columns.values(), strict=True)]
        answers: list[Prediction | str] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            answers += self._answers(rows[start : start + _ROWS_AT_ONCE])
        return answers

    def _answers(self, rows: Sequence[Row]) -> list[Prediction | str]:
        clips = [self._clip_or_error(row) for row in rows]
        usable = [clip for clip in clips if isinstance(clip, ClipFeatures)]
        try:
            predictions = iter(self.model.predict_each(usable))
        except InputError as error:  # the model predicts no single clips at all
            return [_in_one_line(error)] * len(rows)
        answers: list[Prediction | str] = []
        for clip in clips:
            found = next(predictions) if isinstance(clip, ClipFeatures) else clip
            answers.append(found if isinstance(found, Prediction) else _in_one_line(found))
        return answers

    def _clip_or_error(self, row: Row) -> ClipFeatures | Exception:
        try:
            with contextlib.ExitStack() as files:
                given = {name: cell for name, cell in row.items() if not _is_missing(cell)}
                speaker = given.pop(SPEAKER_COLUMN, None)
                return self._centered(self._clip(given, files), speaker)
        except Exception as error:  # noqa: BLE001  whatever spoils a row is that row's error
            return error

    def _centered(self, clip: ClipFeatures, speaker: Any) -> ClipFeatures:
        if self._means is None:
            return clip
        if speaker is None:
            problem = "is missing: the model takes the mean of each speaker's earlier clips off"
            raise InputError(
                "row", SPEAKER_COLUMN, problem, "name the speaker of each row, and give their clips in order"
            )
        with self._centering:
            return CenteredClip(**self._means.centered(clip.by_modality, str(speaker)))

    def _clip(self, row: Row, files: contextlib.ExitStack) -> ClipFeatures:
        """Read what the model can use of a row.

        ``row``: the cells that are given. ``files``: closes temporary files after the row.
        """
        if not row:
            raise InputError("row", "", "has neither audio nor video", f"fill one of {', '.join(INPUT_COLUMNS)}")
        media = self._sides_of_media(row, files)
        found: dict[str, NDArray[np.float32]] = {}
        nothing: NoSignalError | None = None
        for modality in self.model.modalities:
            if found and not self.model.description.fusion_trained:
                break  # the model would not use the other modality
            try:
                values = self._side(modality, row, media, files)
            except NoSignalError as error:  # as in training: the clip counts as one without it
                values, nothing = None, error
            if values is not None:
                found[modality] = values
        if nothing is not None and not found:
            raise nothing
        return ClipFeatures(**found)

    def _side(
        self, modality: str, row: Row, media: Mapping[str, Path], files: contextlib.ExitStack
    ) -> NDArray[np.float32] | None:
        ready = row.get(f"{modality}_features")
        if ready is not None:
            return _frames(ready, f"{modality}_features")
        path = _file_of(modality, row, files) or media.get(modality)
        return None if path is None else self._extracted(modality, path)

    def _sides_of_media(self, row: Row, files: contextlib.ExitStack) -> dict[str, Path]:
        """Return the file that the ``media`` columns give, for each side that is in it."""
        from vavl.media.media_bytes import modalities_in

        path = _file_of("media", row, files)
        return {} if path is None else dict.fromkeys(modalities_in(path), path)

    def _extracted(self, modality: str, path: Path) -> NDArray[np.float32]:
        from vavl.extractors.extractor import MediaReader

        with self._extracting:
            self._media = self._media or MediaReader(self.model.description.extractors)
            values: NDArray[np.float32] = self._media.read(path, modality).values
        return values


def value_columns(task: Mapping[str, Any]) -> list[str]:
    """Return the columns of a prediction's values: probabilities of classes, or attributes by name.

    Args:
        task: the ``task`` of a model description, as in ``model.json``.
    """
    names = [f"probability_{name}" for name in task.get("classes") or ()]
    return names or list(task.get("attributes") or ())


def _file_of(name: str, row: Row, files: contextlib.ExitStack) -> Path | None:
    """Return the file of ``<name>_path``, or of ``<name>_bytes`` as long as ``files`` is open."""
    path, content = row.get(f"{name}_path"), row.get(f"{name}_bytes")
    if path is not None:
        return _served(Path(os.fsdecode(path)), f"{name}_path")
    if content is None:
        return None
    from vavl.media.media_bytes import media_file

    return files.enter_context(media_file(content, f"{name}_bytes"))


def _served(path: Path, field: str) -> Path:
    """Return a path that a request may name: any, or one below ``VAVL_SERVED_ROOT`` where that is set.

    Raises:
        InputError: it leads out of the root, links followed, or the root is empty: then only bytes are read.
    """
    given = os.environ.get(SERVED_ROOT_VARIABLE)
    if given is None:
        return path
    root = Path(given).resolve()
    found = (root / path).resolve()
    if not given or not found.is_relative_to(root):
        fix = f"give the bytes of the file in {field.removesuffix('path')}bytes"
        raise InputError(
            field, "", "this server reads no such file", fix if not given else f"{fix}, or a path below its root"
        )
    return found


def _frames(value: Any, field: str) -> NDArray[np.float32]:
    """Return (frame, channel) from an array, nested lists, or an array of arrays as Parquet readers give them."""
    if isinstance(value, np.ndarray) and value.dtype == object:
        value = list(value)
    try:
        # Numbers beyond float32 become infinite, which is said of them where all values are checked.
        with np.errstate(over="ignore"):
            return np.asarray(value, dtype=np.float32)
    except (TypeError, ValueError) as error:
        raise InputError(
            field, "", f"is not a table (frame, channel) of numbers: {error}", "give one row of channels a frame"
        ) from None


def _is_missing(value: Any) -> bool:
    if isinstance(value, (float, np.floating)):
        return bool(np.isnan(value))
    # pandas' mark of a missing cell has no truth, and pandas is not imported here for its sake.
    return value is None or type(value).__name__ in {"NAType", "NaTType"} or (isinstance(value, str) and not value)


def _in_one_line(error: Exception) -> str:
    """Return the text of an error; a path may hold bytes that are no text, and a table would refuse them."""
    text = str(error) if isinstance(error, VavlError) else f"{type(error).__name__}: {error}"
    return "; ".join(line.strip() for line in readable(text).splitlines())
