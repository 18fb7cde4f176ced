"""From finished runs to table, summary and report, without Ray."""

from __future__ import annotations

import csv
import json
from typing import Any

import pytest
import yaml

from vavl.errors import TrainingError
from vavl.experiments.comparison_grid import plan_grid
from vavl.experiments.comparison_report import main_metrics, refuse_failures, result_rows, write_pages
from vavl.experiments.comparison_result import Results, write_results
from vavl.experiments.comparison_settings import ComparisonPlan
from vavl.experiments.runner import run_trial


@pytest.fixture
def comparison(small_store, small_corpus, tmp_path):
    """Return a function that makes a comparison of runs that take less than a second."""
    sizes = {
        "width": 8, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2, "convolution_kernel": 3,
        "head_widths": [8, 8],
    }  # fmt: skip
    base = tmp_path / "train.yaml"
    base.write_text(
        yaml.safe_dump({"output_dir": "unused", "data": {"store": str(small_store(small_corpus()))}, "model": sizes})
    )

    def make(**changes: Any) -> ComparisonPlan:
        sets = {"plain": {}, "smooth": {"objectives.reconstruction.weight": 0.5}}
        content = {"output_dir": tmp_path / "out", "training": base, "objective_sets": sets, **changes}
        overrides = {"training.max_epochs": 1, **content.get("overrides", {})}
        return ComparisonPlan.model_validate({**content, "overrides": overrides})

    return make


@pytest.fixture
def results_of(logs):
    """Return a function that trains all runs of a comparison in this process."""

    def results(plan: ComparisonPlan) -> Results:
        grid = plan_grid(plan)
        found = Results(plan, grid)
        while trial := grid.next_trial(0):
            run_trial(trial.number, trial.plan, logs.of(trial.name, {}), lambda epoch: None)
            found.add(grid.trial_ended(trial.number))
        return found

    return results


def test_attributes_are_compared_by_concordance(comparison, results_of):
    plan = comparison(
        overrides={"data.target": "attributes", "evaluation.select_by": ["validation/audio_video/ccc_mean"]},
        seeds=(0, 1), test=True,
    )  # fmt: skip
    found = results_of(plan).compare()
    assert found.main_measure == "ccc_mean"
    files = write_results(found, {})
    summary = json.loads(files[1].read_text())
    assert summary["split"] == "test"
    rows = list(csv.DictReader(files[0].open()))
    assert {"ccc_mean", "ccc_valence", "clips"} <= rows[0].keys()
    entry = next(
        entry for entry in summary["scores"]
        if (entry["set"], entry["condition"], entry["measure"]) == ("plain", "audio", "ccc_mean")
    )  # fmt: skip
    runs = [float(row["ccc_mean"]) for row in rows if (row["set"], row["condition"]) == ("plain", "audio")]
    assert entry["value"] == pytest.approx(sum(runs) / 2)
    assert write_pages(found)[0].exists()


def test_a_condition_that_nothing_trained_has_no_score(comparison, results_of):
    audio = {"data.partitions.audio_only_share": 1.0, "evaluation.select_by": ["validation/audio/accuracy"]}
    plan = comparison(objective_sets={"all": {}, "audio_only": audio})
    found = results_of(plan).compare()
    alone = {score.condition for score in found.scores if score.group[0] == "audio_only"}
    assert alone == {"audio"}
    assert {entry.condition for entry in found.differences} == {"audio"}
    assert {name for name in main_metrics(found) if "_minus_" in name} == {
        "audio_only_minus_all/labels-100_unpaired-0/audio/accuracy"
    }
    text = [f"{place} {value}" for place, value in result_rows(found)]
    assert sum("against all" in line for line in text) == 1


def test_failed_runs_are_stated_and_refused_at_the_end(comparison):
    plan = comparison()
    grid = plan_grid(plan)
    results = Results(plan, grid)
    while trial := grid.next_trial(0):
        results.add(grid.trial_ended(trial.number, "no luck"))
    found = results.compare()
    files = write_results(found, {"mlflow_run_id": None})
    assert len(json.loads(files[1].read_text())["failed"]) == 2
    assert write_pages(found) == []
    with pytest.raises(TrainingError, match=r"(?s)2 run\(s\) failed; plain/.*no luck.*finished runs are kept"):
        refuse_failures(found)
