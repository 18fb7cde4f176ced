"""Teachers predict the student's training clips, and nobody teaches what a student is measured on."""

from __future__ import annotations

import json

import numpy as np
import pyarrow.parquet as pq
import pytest

from vavl.config.load import validate
from vavl.errors import ConfigError, InputError
from vavl.experiments.distillation import (
    PREDICTIONS,
    UNTAUGHT,
    predict_training_clips,
    student_plan,
    write_predictions,
)
from vavl.experiments.distillation_settings import DistillationPlan
from vavl.job_config import TrainModelJob
from vavl.models.saved_model import ClipFeatures, load_model
from vavl.training.run import prepare_run
from vavl.training.run_data import check_plan, open_run_data
from vavl.training.worker import train_on_worker

CORPUS = {"without_audio": (0,), "without_video": (1,), "without_label": (1, 2)}


@pytest.fixture
def teacher(plan):
    """Return a function that trains a tiny teacher and gives its directory."""

    def make(name="teacher", **sections):
        chosen = plan(name, training={"max_steps": 2, **sections.pop("training", {})}, **sections)
        train_on_worker(chosen, lambda records: None)
        return chosen.directory / "best"

    return make


def test_predictions_are_averaged_over_conditions_and_teachers(plan, teacher, tmp_path):
    paths = {"a": teacher("a"), "b": teacher("b", training={"seed": 5})}
    student = plan("student")
    file = write_predictions(paths, student, tmp_path)
    table = pq.read_table(file).to_pandas().set_index("clip_id")
    data = open_run_data(student)
    ids = data.collection.manifest.table["clip_id"].to_pylist()
    assert sorted(table.index) == sorted(ids[row] for row in data.rows["train"])  # labeled or not
    assert list(table.columns) == [f"predicted_{name}" for name in data.task.classes]
    assert np.allclose(table.sum(axis=1), 1)
    single = [predict_training_clips(load_model(path), data) for path in paths.values()]
    expected = dict(zip([ids[row] for row in data.rows["train"]], np.mean(single, axis=0), strict=True))
    for clip, row in table.iterrows():
        np.testing.assert_allclose(row, expected[clip])
    written = file.stat().st_mtime_ns
    assert write_predictions(paths, student, tmp_path) == file
    assert file.stat().st_mtime_ns == written
    assert write_predictions({"a": paths["a"]}, student, tmp_path) != file


def test_conditions_count_by_their_shares_as_far_as_the_clip_has_them(plan, teacher):
    model, data = load_model(teacher()), open_run_data(plan("student"))
    found = predict_training_clips(model, data)
    has = {name: data.collection.has(name)[data.rows["train"]] for name in ("audio", "video")}
    for place in (np.flatnonzero(has["audio"] & has["video"])[0], np.flatnonzero(~has["video"])[0]):
        row = int(data.rows["train"][place])
        frames = {name: data.collection.frames(name, row) if has[name][place] else None for name in has}
        sides = [(frames["audio"], frames["video"], 0.5)] if has["video"][place] else []
        sides += [(frames["audio"], None, 0.25)] + ([(None, frames["video"], 0.25)] if has["video"][place] else [])
        by_hand = [model.predict([ClipFeatures(audio, video)])[0].values for audio, video, _ in sides]
        weights = [weight for *_, weight in sides]
        np.testing.assert_allclose(found[place], np.average(by_hand, axis=0, weights=weights), atol=1e-6)


def test_a_student_learns_from_the_file(plan, teacher, train_from, tmp_path):
    file = write_predictions({"a": teacher()}, plan("student"), tmp_path)
    chosen = plan("student", objectives={"pseudo_label": {"predictions": file}})
    run, _, state, seen = train_from(chosen)
    assert run.loader.weak_view is None
    assert state.teacher_mean is not None
    steps = [record["metrics"] for record in seen.of("step")]
    assert all(step["train/pseudo_label/unlabelled"] > 0 for step in steps)
    said = pq.read_table(chosen.directory / "pseudo_labels.parquet").to_pandas()
    given = pq.read_table(file).to_pandas().set_index("clip_id")
    for row in said.itertuples():
        assert row.confidence == pytest.approx(given.loc[row.clip_id].max(), abs=1e-6)
    # Labeled clips are taught as well, next to their own labels.
    batch_rows = {int(index) for batch in run.loader.load(0) for index in batch.index if index >= 0}
    ids = run.data.collection.manifest.table["clip_id"].to_pylist()
    assert set(said[said.step == 0].clip_id) == {ids[row] for row in batch_rows}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.drop_columns(table.column_names[1]), r"predicted_calm: is missing"),
        (lambda table: table.slice(0, 0), "names no training clip of this run"),
        (lambda table: _with_first_values(table, np.nan), "values that are not finite"),
        (lambda table: _with_first_values(table, 2.0), "must sum to 1"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_means_nothing_is_refused_before_the_start(plan, teacher, tmp_path, change, message):
    file = write_predictions({"a": teacher()}, plan("student"), tmp_path)
    if change is None:
        file.write_bytes(b"no table")
    else:
        pq.write_table(change(pq.read_table(file)), file)
    with pytest.raises(InputError, match=message):
        prepare_run(plan("student", objectives={"pseudo_label": {"predictions": file}}))


def _with_first_values(table, value):
    name = table.column_names[1]
    return table.set_column(1, name, [np.full(len(table), value)])


def test_a_teacher_that_may_have_seen_the_measured_clips_is_refused(plan, teacher, tmp_path):
    other = teacher("other")
    described = json.loads((other / "model.json").read_text())
    described["provenance"]["fold"] = 1
    (other / "model.json").write_text(json.dumps(described))
    with pytest.raises(InputError, match=r"fold: was trained under 1, the student under 0"):
        write_predictions({"other": other}, plan("student"), tmp_path)
    refit = teacher("refit", training={"refit": True})
    with pytest.raises(InputError, match=r"refit_steps: was trained on the validation clips"):
        write_predictions({"refit": refit}, plan("student"), tmp_path)
    write_predictions({"refit": refit}, plan("student", training={"refit": True, "max_steps": 2}), tmp_path)


def test_a_student_is_measured_against_its_own_pseudo_labels_only_where_nobody_else_teaches(training_file, tmp_path):
    """All its clips have labels: its own teacher would have nothing to teach, others have."""
    content = {"output_dir": tmp_path, "student": training_file, "rounds": 2, "teachers": ["a"]}
    weight = {"overrides": {"objectives.pseudo_label.weight": 0.5}}
    job = validate(DistillationPlan, {**content, **weight}, "here")
    with pytest.raises(ConfigError, match="every training clip has a label"):
        check_plan(student_plan(TrainModelJob, job, 1))
    untaught = student_plan(TrainModelJob, job, 1, UNTAUGHT)
    check_plan(untaught)
    assert untaught.tracking.model_name is None
    taught = student_plan(TrainModelJob, job, 2, {PREDICTIONS: "teachers.parquet"})
    assert taught.tracking.model_name == "trained"
    assert taught.objectives.pseudo_label.weight == 0.5
    assert (taught.output_dir, str(taught.objectives.pseudo_label.predictions)) == (
        tmp_path / "round-2", "teachers.parquet",
    )  # fmt: skip


def test_the_directory_of_a_round_cannot_be_chosen():
    content = {"output_dir": "a", "student": "b.yaml", "rounds": 2, "overrides": {"output_dir": "c"}}
    with pytest.raises(ConfigError, match="output_dir belongs to the distillation"):
        validate(DistillationPlan, content, "here")


def test_nobody_to_learn_from_is_refused():
    with pytest.raises(ConfigError, match=r"name teachers, or set rounds: 2"):
        validate(DistillationPlan, {"output_dir": "a", "student": "b.yaml"}, "here")
