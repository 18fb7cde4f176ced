"""The registered model: a table of clips in, a table of predictions out.

This file is copied into the logged model and executed when the model is loaded; what it imports of the ``vavl``
package travels next to it (see ``vavl.serving.served_code``).
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # comes with MLflow
from mlflow.models import Model, set_model
from mlflow.pyfunc import PythonModel

_SPEAKER = "speaker"
_TEXTS = ("label", "condition", "error", "warning")
_log = logging.getLogger(__name__)


class Answers(pd.DataFrame):  # type: ignore[misc]  # pandas carries no types
    """Predictions, one row each; as dictionaries, which MLflow's server sends, a missing number is None.

    JSON (RFC 8259) has no NaN; in the table itself columns of numbers stay columns of numbers.
    """

    @property
    def _constructor(self) -> Any:
        """What pandas makes of a part of the table: a plain one."""
        return pd.DataFrame

    def to_dict(self, *arguments: Any, **options: Any) -> Any:
        """See ``pandas.DataFrame.to_dict``."""
        return self.astype(object).where(self.notna(), None).to_dict(*arguments, **options)


class ServedModel(PythonModel):  # type: ignore[misc]  # MLflow carries no types
    """Predicts clips from audio and video, audio alone or video alone, row by row.

    Input columns, all optional; a missing column, None, NaN or an empty text means that the clip lacks it:

    - ``audio_features``, ``video_features``: raw features (frame, channel), as an array or nested lists;
    - ``audio_path``, ``video_path``: media files, read by the extractor that the model was trained with;
    - ``audio_bytes``, ``video_bytes``: their content, as bytes or as a text in base64;
    - ``media_path``, ``media_bytes``: a file with audio, video or both, for whichever it has.

    What stands first in this list wins where a row gives one modality twice.

    A model trained with ``features.speaker_normalisation: causal_mean`` also needs ``speaker``: the mean of the
    speaker's earlier clips is taken off, and the rows of a speaker count in the order in which they are given, over all
    calls of the loaded model.

    Output columns, a row for each row of the input and under its index: ``label`` (None for a model of
    attributes), ``probability_<class>`` or one column per attribute, ``condition`` (``audio_video``, ``audio`` or
    ``video``: what the prediction rests on) and ``error``. A row that cannot be predicted has its reason in
    ``error``, and changes nothing of the other rows. Where the model knows its training clips, or a parameter is
    given, also ``out_of_distribution``, ``distance`` and ``warning``, as in ``predict_clips``.

    Parameters: ``classes`` (list), ``abstain_below`` (number), ``class_shares``, ``training_shares`` (class -> share).
    """

    def load_context(self, context: Any) -> None:
        """Check the files that were logged next to this one, and load the model."""
        import vavl
        from vavl.models.saved_model import load_model
        from vavl.serving.served_code import CODE_FILES_KEY, CODE_HASH_KEY, check_files, code_hash
        from vavl.serving.served_rows import INPUT_COLUMNS, RowPredictor, value_columns

        files = Path(context.artifacts["model"])
        root = files.parents[1]
        check_files(root, str(root), model_id=Model.load(str(root)).model_id)
        self._predictor = RowPredictor(load_model(files))
        self._compares = any(self._predictor.model.description.profiles.values())
        for modality, missing in self._predictor.missing_plugins().items():
            _log.warning("%s features %s: only ready features of it can be predicted from", modality, missing)
        self._input_columns = (*INPUT_COLUMNS, _SPEAKER)
        self._value_columns = value_columns(self._predictor.model.description.task.model_dump())
        config = context.model_config or {}
        expected, names = config.get(CODE_HASH_KEY), config.get(CODE_FILES_KEY)
        # Python keeps one `vavl` per process: the model's own copy counts only where none was imported.
        if expected is not None and expected != code_hash(Path(vavl.__file__).parent, names):
            _log.warning(
                "this model was made with other code than the vavl package of this process (%s); "
                "load it in a fresh process to run it with its own code",
                vavl.__file__,
            )

    def predict(
        self,
        context: Any,  # noqa: ARG002  MLflow wants this very name
        model_input: pd.DataFrame,
        params: dict[str, Any] | None = None,
    ) -> pd.DataFrame:
        """Predict every row; see the class for the columns, and ``DecisionSettings`` for the parameters."""
        decision = self._predictor.decision(params or {})
        table = _rows(model_input)
        names = [name for name in table.columns if name in self._input_columns]
        if not set(names) - {_SPEAKER}:
            # MLflow drops columns that it does not know, and with the last one the rows.
            _log.warning("nothing to predict: the table has none of %s", ", ".join(self._input_columns))
        columns = {name: table[name].tolist() for name in names} or {"audio_path": [None] * len(table)}
        return self._table(self._predictor.predict(columns), table.index, decision)

    def _table(self, answers: list[Any], index: Any, decision: Any) -> pd.DataFrame:
        """Return one row per answer; a text stands for an error."""
        nothing = (np.nan,) * len(self._value_columns)
        rows = [
            (None, nothing, None, answer)
            if isinstance(answer, str)
            else (answer.label or None, answer.values, answer.condition, None)
            for answer in answers
        ]
        values = np.array([row[1] for row in rows], dtype=float).reshape(len(rows), len(nothing))
        found = [None if isinstance(answer, str) else answer for answer in answers]
        warnings = [one and one.warning for one in found]
        columns: dict[str, Any] = {"label": [row[0] for row in rows]}
        if decision is not None:
            values, columns["label"], reasons = decision.apply(values)
            warnings = ["; ".join(filter(None, pair)) for pair in zip(reasons, warnings, strict=True)]
        columns |= dict(zip(self._value_columns, values.T, strict=True))
        columns |= {"condition": [row[2] for row in rows], "error": [row[3] for row in rows]}
        if decision is not None or self._compares:
            distance = np.array([np.nan if one is None else one.distance for one in found], dtype=float)
            is_out = [None if np.isnan(one) else bool(one > 1) for one in distance]
            columns |= {"out_of_distribution": pd.Series(is_out, dtype=object, index=index), "distance": distance}
            columns["warning"] = [text or None for text in warnings]
        # Texts of one type whatever the cells hold: left to itself, pandas takes another where all of them are None.
        texts = {name: pd.Series(columns[name], dtype=object, index=index) for name in _TEXTS if name in columns}
        return Answers({**columns, **texts}, index=index)


def _rows(given: Any) -> pd.DataFrame:
    """Return the table; MLflow's server gives columns of ``inputs`` as one row whose cells are lists of texts."""
    table = given if isinstance(given, pd.DataFrame) else pd.DataFrame(given)
    if len(table) != 1:
        return table
    lists = {
        name: cell
        for name in table.columns
        if isinstance(cell := table[name].iloc[0], list | np.ndarray) and len(cell) and all(map(_is_cell, cell))
    }
    lengths = {len(cell) for cell in lists.values()}
    return pd.DataFrame({name: list(cell) for name, cell in lists.items()}) if len(lengths) == 1 else table


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, str | bytes)


set_model(ServedModel())
