"""Every configuration that is shipped can be read by the job that its head names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import get_args

import pytest

from vavl.config.load import read_config, save_config, validate
from vavl.config.places import FROM_PROJECT, FROM_ROOT, anchored, marked_settings
from vavl.errors import ConfigError
from vavl.experiments.comparison_grid import cell_plans
from vavl.job_config import JOB_SETTINGS, CompareObjectivesJob, TrainModelJob
from vavl.submission.submission import SubmitJob

ROOT = Path(__file__).parents[2]
CONFIGS = sorted((ROOT / "jobs/configs").rglob("*.yaml"))
COMPARISONS = sorted((ROOT / "jobs/configs/compare").glob("*.yaml"))
TRAININGS = [path for path in CONFIGS if "# python jobs/train_model.py" in path.read_text(encoding="utf-8")]
JOBS = {**JOB_SETTINGS, "submit_job": SubmitJob}


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def job_of(path: Path) -> str:
    """Return the job of the command in the file's first lines."""
    head = "\n".join(path.read_text(encoding="utf-8").splitlines()[:3])
    command = re.search(r"# .*python jobs/(\w+)\.py (\S+)", head)
    assert command, f"{name_of(path)} does not say how it is run"
    assert command[2] == name_of(path)
    return command[1]


def test_the_loop_over_the_configurations_sees_them():
    assert {"jobs/configs/demo.yaml", "jobs/configs/compare/demo.yaml"} <= {name_of(path) for path in CONFIGS}
    assert {job_of(path) for path in CONFIGS} == JOBS.keys()
    assert [path for path in CONFIGS if job_of(path) == "train_model"] == TRAININGS


def test_every_job_has_its_settings():
    assert JOBS.keys() == {path.stem for path in (ROOT / "jobs").glob("*.py")}


@pytest.mark.parametrize("path", CONFIGS, ids=name_of)
def test_a_shipped_configuration_is_valid_and_reads_back_equal(path, tmp_path):
    settings = JOBS[job_of(path)]
    config = read_config(settings, path)
    save_config(config, tmp_path / "resolved.yaml")
    assert read_config(settings, tmp_path / "resolved.yaml") == config


@pytest.mark.parametrize("path", COMPARISONS, ids=name_of)
def test_every_set_of_a_shipped_comparison_can_be_trained(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    comparison = read_config(CompareObjectivesJob, path)
    assert {cell.objective_set for cell, _ in cell_plans(comparison)} == comparison.objective_sets.keys()


@pytest.mark.parametrize("path", TRAININGS, ids=name_of)
def test_the_overrides_that_others_rely_on_reach_every_training(path):
    overrides = [
        "output_dir=runs/other", "data.fold=3", "training.seed=7", "training.workers=3", "training.zero_stage=2",
        "training.max_steps=11", "evaluation.test=false", "features.speaker_normalisation=true",
    ]  # fmt: skip
    config = read_config(TrainModelJob, path, overrides)
    assert config.output_dir == Path("runs/other")
    assert (config.data.fold, config.training.seed, config.training.workers) == (3, 7, 3)
    assert (config.training.zero_stage, config.training.max_steps) == (2, 11)
    assert config.evaluation.test is False
    assert config.features.speaker_normalisation == "full"


def test_every_path_of_every_job_refuses_an_address_that_it_cannot_use():
    # A path makes the local directory s3: of it.
    seen = []
    for name, settings in JOB_SETTINGS.items():
        for key in (*marked_settings(settings, FROM_ROOT), *marked_settings(settings, FROM_PROJECT)):
            if takes_addresses(settings, key):
                continue
            seen.append(f"{name}.{key}")
            for address in ("s3://bucket/run", Path("s3://bucket/run")):
                with pytest.raises(ConfigError) as caught:
                    validate(settings, nested(key, address), "job.yaml")
                assert f"{key}: Value error, is an address" in str(caught.value)
    assert {name.partition(".")[0] for name in seen if name.endswith(".output_dir")} == set(JOB_SETTINGS) - {
        "train_model"
    }
    assert len(seen) > 25


def takes_addresses(settings, key):
    field = None
    for name in key.split("."):
        field = settings.model_fields[name]
        settings = field.annotation
    return str in get_args(field.annotation) or "str" in str(field.annotation)


def nested(key, value):
    for name in reversed(key.split(".")):
        value = {name: value}
    return value


FORMER_DEMO = [
    "data.augmentation={}", "model.blocks=conformer",
    "objectives.reconstruction.weight=1.0", "objectives.hgr.weight=0.1", "objectives.contrastive=null",
    "objectives.ladder={weight: 0.1}",
    "objectives.pseudo_label={kind: hard, weight: 0.5, threshold: 0.95, start_step: 60, ramp_steps: 60}",
    "objectives.pseudo_label.teacher=average",
]  # fmt: skip
FORMER_RAVDESS = ["model.blocks=conformer", "model.convolution_kernel=1"]


@pytest.mark.parametrize(
    ("name", "overrides", "expected"),
    [("demo", FORMER_DEMO, "82939e26e7a05f26"), ("ravdess", FORMER_RAVDESS, "a87960552ef25cf7")],
    ids=["demo", "ravdess"],
)
def test_unfinished_runs_of_earlier_versions_are_resumed(name, overrides, expected):
    """A setting that goes must not change the hash of those who never used it."""
    assert read_config(TrainModelJob, ROOT / f"jobs/configs/{name}.yaml", overrides).config_hash == expected


@pytest.mark.parametrize("place", ["s3://bucket/runs/demo", "gs://b/r", "file:///data/run"])
def test_a_training_run_may_be_at_an_address(place, tmp_path):
    job = read_config(TrainModelJob, ROOT / "jobs/configs/demo.yaml", [f"output_dir={place}"])
    assert job.output_dir == place
    assert job.with_absolute_paths().output_dir == place
    assert anchored(job, tmp_path).output_dir == place
    assert job.config_hash == read_config(TrainModelJob, ROOT / "jobs/configs/demo.yaml").config_hash
    save_config(job, tmp_path / "saved.yaml")
    assert read_config(TrainModelJob, tmp_path / "saved.yaml") == job
    with pytest.raises(ConfigError, match="is an address"):
        _ = job.directory


def test_an_address_that_lost_a_slash_is_refused():
    with pytest.raises(ConfigError, match="lost a slash"):
        validate(TrainModelJob, {"output_dir": Path("s3://bucket/run")}, "job.yaml")
