"""A sweep in MLflow and in its directory: children, the registered best, summary, table and winning configuration."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import yaml

from vavl.config.files import write_json
from vavl.config.load import read_config
from vavl.errors import TrainingError
from vavl.experiments.sweep import Sweep, open_sweep
from vavl.experiments.sweep_report import write_pages
from vavl.experiments.sweep_result import (
    SweepResult,
    main_metrics,
    refuse_nothing_found,
    result_rows,
    sweep_summary,
    write_results,
)
from vavl.experiments.sweep_settings import SweepPlan
from vavl.experiments.trials import ParentRun, Trial, TrialEnd, write_end
from vavl.job_config import TrainModelJob
from vavl.tracking.settings import TrackingSettings
from vavl.training.run_directory import RunDirectory
from vavl.training.training_result import dataset_note

METRIC = "validation/audio_video/accuracy"
RATE = "training.optimizer.learning_rate"
OUTCOME = {
    "corpus": "small", "protocol": "first speakers", "fold": 0, "label_set": None, "label_target": "drawn class",
    "config_hash": "0" * 16, "store_hash": "1" * 16, "speaker_normalisation": False, "waived_audit": [],
}  # fmt: skip


@pytest.fixture
def plan(training_file, tmp_path):
    content = yaml.safe_load(training_file.read_text())
    training_file.write_text(yaml.safe_dump({**content, "evaluation": {"test": True}}))
    return SweepPlan.model_validate({
        "output_dir": tmp_path / "sweep", "training": training_file, "trials": 4,
        "search": {RATE: {"low": 1e-4, "high": 1e-1, "log": True}},
    })  # fmt: skip


def ends_of(sweep: Sweep, parent: ParentRun, model: Path | None = None) -> list[tuple[Trial, TrialEnd]]:
    """Act four trials out: the base, a better one, one that is stopped, one that fails."""
    acted: list[tuple[Any, str, float, int]] = [
        ("finished", "", 0.5, 9), ("finished", "", 0.7, 9), ("pruned", "asha", 0.2, 3), ("failed", "no memory", 0, 0),
    ]  # fmt: skip
    ends = []
    for state, reason, score, epochs in acted:
        trial = sweep.next_trial(0)
        folder, metrics = sweep.plan.trial_directory(trial.number), {METRIC: score} if score else {}
        folder.mkdir(parents=True)
        log = parent.logs.of(trial.name, trial.tags)
        log.start(trial.plan, cast("RunDirectory", SimpleNamespace(run_id=f"run-{trial.number}")))
        for epoch in range(1, epochs + 1):
            log([{"kind": "epoch", "epoch": epoch, "step": epoch, "metrics": metrics}])
        if state == "finished":
            write_json(folder / "outcome.json", {**OUTCOME, "metrics": metrics})
            log.end("finished", metrics)
            if model is not None:
                (folder / "best").symlink_to(model)
        write_end(folder, TrialEnd(trial.number, state, reason, metrics, epochs, 9 if epochs else 0, 10.0, 1.5))
        ends.append((trial, sweep.trial_ended(trial.number)))
    return ends


def small_sweep(plan: SweepPlan, tracking: TrackingSettings) -> SweepResult:
    """Return the results of the acted sweep, without a tracking store."""
    with open_sweep(plan) as sweep:
        ends_of(sweep, ParentRun(plan.output_dir, "trials", tracking))
        return SweepResult.of(sweep)


def test_children_and_the_registered_best_reach_mlflow(plan, tracking, tracking_client, model_folder):
    settings = tracking.model_copy(update={"model_name": f"best-{plan.output_dir.parent.name}"})
    with open_sweep(plan) as sweep, ParentRun(plan.output_dir, "trials", settings, plan.search) as parent:
        parent.start(plan, "hash", sweep.run_id, dataset_note(sweep.plans.plan_of(0, {})))
        sweep.resume(parent.logs)
        for trial, end in ends_of(sweep, parent, model_folder):
            parent.trial_ended(trial, end)
        result = SweepResult.of(sweep)
        files, tags = [*write_results(result, settings, {}), *write_pages(result)], {"sweep": result.run_id}
        kept = parent.finish_with_best(main_metrics(result), files, result.best_name, tags)
        assert parent._register(str(result.best_name), tags) is not None  # a second start registers nothing new
    assert kept["tracking_complete"]
    parent = tracking_client.get_run(kept["mlflow_run_id"])
    children = tracking_client.search_runs(
        [parent.info.experiment_id], f"tags.`mlflow.parentRunId` = '{parent.info.run_id}'"
    )
    statuses = {child.data.tags["sweep.trial"]: child.info.status for child in children}
    assert {number: statuses[number] for number in "013"} == {"0": "FINISHED", "1": "FINISHED", "3": "FAILED"}
    searched = {child.data.tags["sweep.trial"]: child.data.params[f"search.{RATE}"] for child in children}
    assert {number: float(value) for number, value in searched.items()} == {
        str(number): point[RATE] for number, point in result.points.items()
    }
    assert parent.data.metrics["gain/" + METRIC] == pytest.approx(0.2)
    names = {item.path for item in tracking_client.list_artifacts(parent.info.run_id)}
    assert names >= {"best.yaml", "trials.csv", "summary.json", "report.html", "plots"}
    version = tracking_client.get_model_version(settings.model_name, kept["model_version"])
    best = next(child for child in children if child.data.tags["sweep.trial"] == "1")
    assert version.run_id == best.info.run_id
    assert version.tags["sweep"] == result.run_id
    assert len(tracking_client.search_model_versions(f"name='{settings.model_name}'")) == 1


def test_the_folder_holds_summary_table_and_a_configuration_that_runs(plan, tracking):
    result = small_sweep(plan, tracking)
    write_results(result, tracking, {"mlflow_run_id": "7"})
    summary = json.loads((plan.output_dir / "summary.json").read_text())
    counts = ("trials", "finished", "pruned", "failed", "epochs_run", "epochs_full", "mlflow_run_id")
    assert [summary[key] for key in counts] == [4, 2, 1, 1, 21, 27, "7"]
    assert summary["best"]["trial"] == 1
    assert summary["best"]["metrics"] == {METRIC: 0.7}
    assert summary["gain"] == {METRIC: pytest.approx(0.2)}
    assert summary["failures"] == [{"trial": 3, "reason": "no memory"}]
    rows = list(csv.DictReader((plan.output_dir / "trials.csv").open()))
    assert [row["state"] for row in rows] == ["finished", "finished", "pruned", "failed"]
    assert [row["is_base"] for row in rows] == ["True", "False", "False", "False"]
    assert float(rows[1][RATE]) == summary["best"]["overrides"][RATE]
    winner = read_config(TrainModelJob, Path(summary["winning_config"]))
    assert winner.training.optimizer.learning_rate == summary["best"]["overrides"][RATE]
    assert winner.evaluation.test  # as the training configuration says; trials never measure it
    assert winner.tracking.experiment == "of the training"
    # It is the same training as the trial's but for that.
    evaluation = winner.evaluation.model_copy(update={"test": False})
    trial = result.plans.plan_of(1, result.points[1])
    assert winner.model_copy(update={"evaluation": evaluation}).config_hash == trial.config_hash


def test_the_table_says_what_was_found(plan, tracking):
    result = small_sweep(plan, tracking)
    rows = dict(result_rows(result, {"model_name": "tuned", "model_version": "3", "mlflow_run_id": "abc"}))
    assert rows["trials"] == "4: 2 finished, 1 pruned, 1 failed"
    assert rows["epochs"] == "21 of 27, 22 % saved by early stopping"
    assert rows["best"].startswith("audio_video/accuracy 0.700   trial 1: learning_rate=")
    assert rows["base"].endswith("trial 0: learning_rate=0.001")
    assert rows["failed"] == "trial 3: no memory"
    assert rows["model"] == "tuned, version 3"
    refuse_nothing_found(result)


def test_a_sweep_that_found_nothing_says_why(plan, tracking):
    with open_sweep(plan) as sweep:
        trial = sweep.next_trial(0)
        sweep.trial_ended(trial.number, "its process died twice")
        result = SweepResult.of(sweep)
    assert sweep_summary(result)["best"] is None
    assert main_metrics(result)["sweep/failed"] == 1
    assert [path.name for path in write_pages(result)] == ["report.html"]
    with pytest.raises(TrainingError, match="no trial has finished; trial 0: its process died twice"):
        refuse_nothing_found(result)


def test_every_trial_has_a_line(plan, caplog):
    caplog.set_level("INFO")
    with open_sweep(plan) as sweep:
        assert sweep.next_trial(0) is not None
        assert sweep.standing == "none finished yet"
        reason = "asha: stopped after epoch 3"
        write_end(sweep.plan.trial_directory(0), TrialEnd(0, "pruned", reason, {METRIC: 0.25}, 3, 9, 12.0))
        end = sweep.trial_ended(0)
    assert "trial 0 starts: learning_rate=0.001" in caplog.text
    assert sweep.line_of(end) == f"trial 0 pruned ({reason}): audio_video/accuracy 0.250 in 3 of 9 epochs, 12 s"
    assert (sweep.done, sweep.total) == (1, 4)
