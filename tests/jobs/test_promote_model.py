"""jobs/promote_model.py: who becomes champion, who does not and why, and the way back."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file
from tiny_plans import own_tracking

from vavl.models.saved_model import load_model, save_model
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.settings import TrackingSettings, tracking_place
from vavl.training.driver_lock import only_driver

NAME = "vavl-test"
# What is silent in each version: it then says the same of every clip.
SILENT = {"1": "fusion_head.", "2": "", "3": "audio_path.head.", "4": "fusion_head."}


@pytest.fixture(scope="module")
def made(trained, tmp_path_factory, tracking_database):
    """A store, and a database with four versions of a model that knows all three conditions."""
    training = {"max_epochs": 12, "optimizer": {"learning_rate": 1e-2}}
    one = trained({"clips_per_speaker": 20, "signal": 4.0}, training=training)
    folder, best = tmp_path_factory.mktemp("registry"), one.folder / "best"
    settings = TrackingSettings.model_validate(own_tracking(folder, tracking_database))
    client = open_client(settings, tracking_place(settings, {}))
    client.create_registered_model(NAME)
    for version, silent in SILENT.items():
        weights = load_file(best / "model.safetensors")
        for name in weights:
            if silent and name.startswith(silent):
                weights[name].zero_()
        save_model(folder / version / "artifacts" / "model", weights, load_model(best).description)
        client.create_model_version(NAME, source=(folder / version).as_uri())
    return one.store, folder


class Case:
    """One registry of a test's own, and the configuration of a promotion in it."""

    def __init__(self, store: Path, database: Path, folder: Path, run_job: Callable[..., Any]) -> None:
        self._run, self._config = run_job, folder / "promote.yaml"
        self.tracking = {"uri": f"sqlite:///{database}", "artifact_location": str(folder / "artifacts")}
        content = {
            "challenger": f"models:/{NAME}/1",
            "output_dir": str(folder / "promotion"),
            "data": {"store": str(store), "split": "test"},
            "rule": {"least_speakers": 2},
            "tracking": self.tracking,
        }
        self._config.write_text(yaml.safe_dump(content))
        self.folder = folder / "promotion"
        settings = TrackingSettings.model_validate(self.tracking)
        self.client = open_client(settings, tracking_place(settings, {}))

    def promote(self, version: str, *words: str, code: int = 0) -> Any:
        return self._run("promote_model", self._config, f"challenger=models:/{NAME}/{version}", *words, code=code)

    def roll_back(self, code: int = 0) -> Any:
        words = ["rollback=true", f"output_dir={self.folder}"]
        words += [f"tracking.{key}={value}" for key, value in self.tracking.items()]
        return self._run("promote_model", f"models:/{NAME}", *words, code=code)

    def crown(self, version: str) -> None:
        self.client.set_registered_model_alias(NAME, "champion", version)

    @property
    def aliases(self) -> dict[str, str]:
        found = self.client.get_registered_model(NAME).aliases
        return {name: str(version) for name, version in found.items()}

    @property
    def summary(self) -> dict[str, Any]:
        return json.loads((self.folder / "summary.json").read_text())

    def tag(self, version: str) -> dict[str, Any]:
        return json.loads(self.client.get_model_version(NAME, version).tags["vavl.promotion"])


@pytest.fixture
def case(made, tmp_path, run_job, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    store, folder = made
    return Case(store, Path(shutil.copy(folder / "mlflow.db", tmp_path / "own.db")), tmp_path, run_job)


def test_a_promotion_waits_for_no_other_that_writes_the_same_directory(case):
    with only_driver(case.folder):
        done = case.promote("3", code=2)
    assert "output_dir: another driver is at work there" in done.stderr
    assert case.aliases == {}


def test_better_with_both_and_worse_with_audio_alone_is_refused_with_the_table(case):
    case.crown("1")
    done = case.promote("3", code=1)
    lines = {line.split("  ")[1].strip(): line for line in done.stdout.splitlines() if line.startswith("  ")}
    assert lines["audio + video"].endswith("asked above 0: holds")
    assert lines["audio alone"].endswith("asked above -5.0 points: FAILS")
    assert lines["video alone"].endswith("asked above -5.0 points: holds")
    assert "audio: lower end -" in lines["why"]
    assert "did not become champion: audio: lower end -" in done.stderr
    assert case.aliases == {"champion": "1"}
    summary = case.summary
    assert (summary["decision"], summary["holds"], summary["champion"]) == ("refused", False, "1")
    assert [entry["holds"] for entry in summary["conditions"]] == [True, False, True]
    assert (summary["clips"]["split"], summary["clips"]["clips"], summary["clips"]["speakers"]) == ("test", 40, 2)
    # The version says the same, and its run holds all of it.
    assert case.tag("3")["conditions"] == summary["conditions"]
    run = case.client.get_run(summary["mlflow_run_id"])
    assert run.info.status == "FINISHED"
    assert run.data.tags["vavl.decision"] == "refused"
    assert run.data.tags["vavl.clips_hash"] == summary["clips"]["clips_hash"]
    assert run.data.metrics["audio/accuracy/difference_low"] < -0.05
    files = {file.path for file in case.client.list_artifacts(run.info.run_id)}
    assert files == {"config.yaml", "evidence.json", "report.html", "plots"}
    page = (case.folder / "report.html").read_text()
    assert "The test clips chose between two models" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    # A second look at the same clips says that it is one.
    case.promote("3", code=1)
    assert case.summary["clips"]["earlier_decisions"] == 1
    assert case.summary["clips"]["clips_hash"] == summary["clips"]["clips_hash"]


def test_a_better_model_is_promoted_and_the_way_back_is_one_command(case):
    case.crown("1")
    done = case.promote("2")
    assert case.aliases == {"champion": "2", "previous": "1"}
    assert case.summary["decision"] == "promoted"
    tag = case.tag("2")
    assert (tag["decision"], tag["compared_with"], tag["previous"]) == ("promoted", "1", "1")
    assert f"python jobs/promote_model.py models:/{NAME} rollback=true" in done.stdout
    case.promote("2")
    assert case.summary["decision"] == "already_champion"
    case.promote("3", code=1)
    case.roll_back()
    assert case.aliases == {"champion": "1"}
    assert (case.summary["decision"], case.summary["version"], case.summary["champion"]) == ("rolled_back", "2", "1")
    assert (case.tag("2")["decision"], case.tag("1")["decision"]) == ("rolled_back", "restored")
    nothing = case.roll_back(code=2)
    assert "version 1 is the first champion" in nothing.stderr
    assert [model.name for model in case.client.search_registered_models()] == [NAME]


def test_the_first_champion_must_know_more_than_one_constant_answer(case):
    case.promote("1", "--dry-run")
    done = case.promote("1", code=1)
    assert "constant answer" in done.stdout
    assert (case.summary["is_first"], case.summary["compared_with"]) == (True, None)
    assert case.aliases == {}
    case.promote("2")
    assert case.aliases == {"champion": "2"}


def test_a_first_champion_may_be_declared(case):
    done = case.promote("1", "rule.first=promote")
    assert "scores do not count" in done.stdout
    assert case.aliases == {"champion": "1"}


def test_a_champion_that_changes_meanwhile_is_to_be_compared_again(case, monkeypatch):
    import vavl.promotion.promotion as promotion

    case.crown("1")
    judge = promotion.judge

    def slow_judge(*words: Any) -> Any:
        verdict = judge(*words)
        case.crown("4")
        return verdict

    monkeypatch.setattr(promotion, "judge", slow_judge)
    done = case.promote("2", code=1)
    assert "is version 4 now, the challenger was compared with 1" in done.stdout
    assert case.aliases == {"champion": "4"}
    assert case.summary["decision"] == case.tag("2")["decision"] == "compare_again"
    monkeypatch.setattr(promotion, "judge", judge)
    case.promote("2")
    assert case.aliases == {"champion": "2", "previous": "4"}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data.split=train"], "was trained on 80 of these 80 clips"),
        (["rule.metric=ccc_mean"], "ccc_mean is no metric of these models"),
        (["data=null"], "data: name the store"),
        (["challenger=runs/demo"], "is no address of a registered model"),
        (["challenger=models:/nobody/1"], f"there is no registered model nobody\n  fix: choose one of {NAME}"),
        (["champion_alias=latest"], "latest cannot be an alias"),
        (["champion_alias=previous"], "are the same"),
    ],
)
def test_what_cannot_be_compared_is_said_before_anything_starts(case, words, message):
    done = case.promote("2", *words, "--dry-run", code=2)
    assert message in done.stderr
