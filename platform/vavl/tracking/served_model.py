"""The registered model: a table of clips in, a table of predictions out.

This file is copied into the logged model and executed when the model is loaded; the ``vavl``
package travels beside it. Rows are independent: a row that cannot be predicted gets its reason in
``error`` and leaves the other rows alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # comes with MLflow
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel
from numpy.typing import NDArray

_ROWS_AT_ONCE = 32
_log = logging.getLogger(__name__)


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow carries no types
    """Predicts clips from audio and video, audio alone or video alone.

    Input columns, all optional; a missing column, None or NaN means that the clip lacks it:
    ``audio_features``, ``video_features``: nested lists (frame, channel) of raw features;
    ``audio_path``, ``video_path``: media files, turned into features by the extractor the model
    was trained with. Features win over a path of the same modality.

    Output columns: ``label`` and ``probability_<class>`` (or one column per attribute),
    ``condition`` (``audio_video``, ``audio`` or ``video``: what the prediction rests on) and
    ``error``.
    """

    def load_context(self, context: Any) -> None:
        """Load the model files that were logged beside this file."""
        import vavl
        from vavl.models.saved_model import load_model
        from vavl.tracking.registry import CODE_HASH_KEY, code_hash

        self._model = load_model(Path(context.artifacts["model"]))
        self._extractors: dict[str, Any] = {}
        expected = (context.model_config or {}).get(CODE_HASH_KEY)
        # Python keeps one `vavl` per process: the model's own copy counts only where none was imported.
        if expected is not None and expected != code_hash(Path(vavl.__file__).parent):
            _log.warning(
                "this model was made with other code than the vavl package of this process (%s); "
                "load it in a fresh process to run it with its own code",
                vavl.__file__,
            )

    def predict(
        self,
        context: Any,  # noqa: ARG002  MLflow wants this very name
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,  # noqa: ARG002
    ) -> pd.DataFrame:
        """Predict every row; see the class for the columns."""
        rows = pd.DataFrame(model_input).to_dict(orient="records")
        answers: list[dict[str, Any]] = []
        for start in range(0, len(rows), _ROWS_AT_ONCE):
            answers += self._answers(rows[start : start + _ROWS_AT_ONCE])
        return pd.DataFrame(answers, columns=self._columns(), index=getattr(model_input, "index", None))

    def _answers(self, rows: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        clips: dict[int, Any] = {}
        faults: dict[int, str] = {}
        for place, row in enumerate(rows):
            try:
                clips[place] = self._clip(row)
            except Exception as fault:  # noqa: BLE001  whatever spoils a row is that row's error
                faults[place] = str(fault)
        predictions = dict(zip(clips, self._predictions(list(clips.values())), strict=True))
        answers = []
        for place in range(len(rows)):
            prediction = predictions.get(place)
            if isinstance(prediction, str) or prediction is None:
                answers.append({"error": prediction or faults[place]})
            else:
                answers.append(self._answer(prediction))
        return answers

    def _predictions(self, clips: list[Any]) -> list[Any]:
        """Predict clips together; if one spoils the batch, one by one. A text stands for an error."""
        try:
            return list(self._model.predict(clips))
        except Exception as fault:  # noqa: BLE001  see above
            if len(clips) == 1:
                return [str(fault)]
        return [self._predictions([clip])[0] for clip in clips]

    def _clip(self, row: Mapping[str, Any]) -> Any:
        from vavl.models.saved_model import ClipFeatures

        sides = {modality: self._features(row, modality) for modality in ("audio", "video")}
        if all(side is None for side in sides.values()):
            raise ValueError(
                "the row has neither audio nor video: fill <modality>_features or <modality>_path"
            )
        return ClipFeatures(**sides)

    def _features(self, row: Mapping[str, Any], modality: str) -> NDArray[np.float32] | None:
        ready, path = row.get(f"{modality}_features"), row.get(f"{modality}_path")
        if not _is_missing(ready):
            try:
                return np.asarray(_as_lists(ready), dtype=np.float32)
            except (TypeError, ValueError) as fault:
                raise ValueError(
                    f"{modality}_features is not a table (frame, channel) of numbers: {fault}"
                ) from None
        return None if _is_missing(path) else self._extracted(modality, Path(str(path)))

    def _extracted(self, modality: str, path: Path) -> NDArray[np.float32]:
        from vavl.features.from_provenance import extractor_of

        if modality not in self._extractors:
            provenance = getattr(self._model.description, modality).extractor
            self._extractors[modality] = extractor_of(provenance, modality)
        values: NDArray[np.float32] = self._extractors[modality](path).values
        return values

    def _answer(self, prediction: Any) -> dict[str, Any]:
        named = zip(self._model.classes, prediction.probabilities, strict=True)
        return {
            "label": prediction.label or None,
            **{f"probability_{name}": value for name, value in named},
            **prediction.attributes,
            "condition": prediction.condition,
        }

    def _columns(self) -> list[str]:
        from vavl.tracking.registry import value_columns

        return ["label", *value_columns(self._model.description.task.model_dump()), "condition", "error"]


def _is_missing(value: Any) -> bool:
    if isinstance(value, float):
        return bool(np.isnan(value))
    return value is None or value is pd.NA or (isinstance(value, str) and not value)


def _as_lists(value: Any) -> Any:
    """Turn an array of arrays, as Parquet readers give them, into nested lists."""
    return [_as_lists(item) for item in value] if isinstance(value, (np.ndarray, list, tuple)) else value


set_model(ServedModel())
