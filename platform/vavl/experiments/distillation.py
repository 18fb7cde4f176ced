"""Teachers and a student: predictions of trained models, averaged, are the pseudo-labels of the next training run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from vavl.config.files import sha256_of_file, sha256_of_json, written_beside
from vavl.config.load import read_yaml_mapping, validate, with_changes
from vavl.config.places import anchored, root_directory
from vavl.errors import InputError
from vavl.experiments.distillation_settings import DistillationPlan
from vavl.metrics.names import MODALITIES_OF
from vavl.models.saved_model import ClipFeatures, Prediction, SavedModel, load_model
from vavl.models.settings import ClassTask
from vavl.objectives.pseudo_label import CONDITION_SHARES
from vavl.training.run_data import RunData, open_run_data
from vavl.training.run_directory import Plan, resolved
from vavl.training.settings import TrainingPlan

_CLIPS_AT_ONCE = 256


PREDICTIONS = "objectives.pseudo_label.predictions"
UNTAUGHT: Mapping[str, Any] = {"objectives.pseudo_label": None}
"""Changes for a student whose teachers have not predicted yet: its pseudo-labels will be theirs."""


def student_plan(
    settings: type[Plan], plan: DistillationPlan, number: int, changes: Mapping[str, Any] | None = None
) -> Plan:
    """Return the training run of a round with further ``changes``; only that of the last registers its model.

    Raises:
        ConfigError: the student's configuration or a change of it is wrong.
    """
    own: dict[str, Any] = {"output_dir": str(plan.output_dir / f"round-{number}")}
    if number < plan.rounds:
        own["tracking.model_name"] = None
    content = with_changes(read_yaml_mapping(plan.student), plan.overrides, "overrides")
    content = with_changes(content, {**own, **(changes or {})}, "distillation")
    return anchored(validate(settings, content, f"{plan.student} with overrides"), root_directory())


def write_predictions(models: Mapping[str, Path], student: TrainingPlan, directory: Path) -> Path:
    """Write what teachers predict of the student's training clips, unless that is there; return the file.

    One row per clip: ``clip_id`` and ``predicted_<class>`` or ``predicted_<attribute>``, averaged over the teachers,
    and over the conditions that the clip has and the teacher was trained on with ``CONDITION_SHARES``. ``models`` are
    directories by the names that messages call them. Labels and modalities that are hidden from the student stay
    hidden.

    Raises:
        InputError: a teacher predicts something else, may have seen the student's validation or test clips, or needs
            features of another kind.
    """
    student = resolved(student)
    data = open_run_data(student)
    weights = [sha256_of_file(path / "model.safetensors") for path in models.values()]
    clips = [data.collection.store.hash, student.data.fold, student.data.partitions.model_dump(mode="json")]
    file = directory / f"teachers-{sha256_of_json([weights, clips, student.training.refit])[:12]}.parquet"
    if file.exists():
        return file
    total: NDArray[np.float64] | None = None
    for name, path in models.items():
        model = load_model(path)
        _check_teacher(name, model, student, data)
        found = predict_training_clips(model, data)
        total = found if total is None else total + found
    assert total is not None
    means = enumerate(_outputs(data.task))
    columns = {f"predicted_{name}": pa.array(total[:, place] / len(models)) for place, name in means}
    clip_ids = data.collection.manifest.table["clip_id"].take(pa.array(data.rows["train"]))
    table = pa.table({"clip_id": clip_ids, **columns})
    # A clip that no teacher can predict is not taught.
    table = table.filter(pa.array(np.isfinite(total).all(axis=1)))
    with written_beside(file) as partial:
        pq.write_table(table, partial)
    return file


def predict_training_clips(model: SavedModel, data: RunData) -> NDArray[np.float64]:
    """Return (training clips, outputs): the average over conditions; NaN where the model can predict from none."""
    rows = data.rows["train"]
    asked = [
        (place, condition)
        for place, row in enumerate(rows)
        for condition, modalities in MODALITIES_OF.items()
        if all(data.collection.has(modality)[row] for modality in modalities)
    ]
    found, weight = np.zeros((len(rows), data.task.outputs)), np.zeros((len(rows), 1))
    theirs = _outputs(model.description.task)
    order = [theirs.index(name) for name in _outputs(data.task)]
    for start in range(0, len(asked), _CLIPS_AT_ONCE):
        some = asked[start : start + _CLIPS_AT_ONCE]
        features = [
            ClipFeatures(**{name: data.collection.frames(name, int(rows[place])) for name in MODALITIES_OF[condition]})
            for place, condition in some
        ]
        for (place, condition), one in zip(some, model.predict_each(features), strict=True):
            # A model that lacks a modality answers from the other one, which is asked for by itself.
            if isinstance(one, Prediction) and one.condition == condition:
                found[place] += CONDITION_SHARES[condition] * np.asarray(one.values)[order]
                weight[place] += CONDITION_SHARES[condition]
    return np.divide(found, weight, out=np.full_like(found, np.nan), where=weight > 0)


def _outputs(task: Any) -> Sequence[str]:
    names: Sequence[str] = task.classes if isinstance(task, ClassTask) else task.attributes
    return names


def _check_teacher(name: str, model: SavedModel, student: TrainingPlan, data: RunData) -> None:
    """Refuse a teacher that predicts other outputs, or that may have seen clips that the student is measured on."""
    store, trained_on, manifest = data.collection.store, model.description.provenance, data.collection.manifest
    model.check_single_clips()
    model.check_features(store.corpus, store.info)
    theirs, ours = _outputs(model.description.task), _outputs(data.task)
    if model.description.task.kind != data.task.kind or set(theirs) != set(ours):
        problem, fix = f"predicts {', '.join(theirs)}; the student {', '.join(ours)}", "name a model of the same task"
        raise InputError(name, "task", problem, fix)
    for field, own in (("protocol", manifest.protocol), ("fold", student.data.fold)):
        if trained_on.get(field) != own:
            problem = f"was trained under {trained_on.get(field)}, the student under {own}: it may have seen the "
            raise InputError(name, field, f"{problem}student's test clips", "name a teacher of the same fold")
    if trained_on.get("refit_steps") is not None and not student.training.refit:
        problem = "was trained on the validation clips, which choose the student's epoch"
        raise InputError(name, "refit_steps", problem, "refit the student too, or name a teacher that is no refit")
