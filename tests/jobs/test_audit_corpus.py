"""jobs/audit_corpus.py: exit codes, what it leaves and where; the gate of the training jobs."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from audited_corpus import CLIPS, write_audited_corpus
from tiny_plans import own_tracking, write_small_training


def leak_speaker(clips: list[Any]) -> None:
    next(clip for clip in clips if clip.split == "test").split = "train"


@pytest.fixture
def clean(tmp_path):
    return write_audited_corpus(tmp_path / "clean")


@pytest.fixture
def leaky(tmp_path):
    return write_audited_corpus(tmp_path / "leaky", leak_speaker)


def test_a_clean_store_ends_with_code_0(clean, run_job):
    done = run_job("audit_corpus", clean)
    assert (clean / "audit.json").exists()
    assert (clean / "audit.html").exists()
    summary = json.loads((clean / "audit/summary.json").read_text())
    assert (summary["state"], summary["failed"], summary["clips"]) == ("passed", 0, CLIPS)
    assert "0 failed" in done.stdout
    assert f"next: open {clean}/audit.html" in done.stdout


def test_a_failed_check_ends_with_code_1_and_the_fix(leaky, run_job):
    done = run_job("audit_corpus", leaky, code=1)
    assert re.search(r"^ +speakers +failed ", done.stdout, re.MULTILINE)
    assert "1 check(s) failed: speakers" in done.stderr
    assert "fix: correct the card's splits" in done.stderr
    assert json.loads((leaky / "audit.json").read_text())["state"] == "failed"
    assert json.loads((leaky / "audit/summary.json").read_text())["checks"]["failed"] == ["speakers"]


def test_other_thresholds_are_no_record_for_training(clean, run_job):
    run_job("audit_corpus", clean, "audit.most_examples=3")
    assert not (clean / "audit.json").exists()
    assert (clean / "audit/audit.json").exists()


def test_a_file_names_store_and_folder(clean, tmp_path, run_job):
    config = tmp_path / "audit.yaml"
    config.write_text(yaml.safe_dump({"store": str(clean), "output_dir": str(tmp_path / "out")}))
    run_job("audit_corpus", config)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"audit.json", "audit.html", "summary.json"}
    assert not (clean / "audit.json").exists()


def test_a_dry_run_writes_nothing(clean, run_job):
    before = {path.name for path in clean.iterdir()}
    run_job("audit_corpus", clean, "--dry-run")
    assert {path.name for path in clean.iterdir()} == before


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("store=/nowhere", "no feature store"),
        ("audit.media.silent_faild=1", "did you mean `silent_failed`"),
        ("audit.leaks.neighbour_ratio=2", "neighbour_ratio"),
        ("card=datasets/demo.yaml", "name either a store, or a card"),
    ],
)
def test_bad_input_ends_with_code_2(clean, word, message, refused):
    refused("audit_corpus", clean, word, message=message)


@pytest.mark.skipif(not os.environ.get("CREMA_D_ROOT"), reason="CREMA_D_ROOT does not name the corpus directory")
@pytest.mark.realdata
def test_the_labels_of_crema_d_are_audited_from_its_tables(tmp_path, run_job):
    config = Path(__file__).parents[2] / "jobs/configs/audit/crema_d.yaml"
    done = run_job("audit_corpus", config, f"output_dir={tmp_path}")
    rows = {" ".join(line.split()) for line in done.stdout.splitlines()}
    assert rows >= {
        "consensus = intended 82.2 % of 5,820 clips",
        "intended = voice 41.6 % of 7,442 clips",
        "intended = face 66.3 % of 7,442 clips",
        "intended = both 72.2 % of 7,442 clips",
        "intended for consensus F1-micro 0.820, F1-macro 0.797, mean over 5 test set(s)",
    }
    assert "Label sets" in (tmp_path / "audit.html").read_text()


@pytest.fixture
def training(tmp_path):
    def write(store: Path) -> Path:
        training = {"launcher": "in_process", "engine": "torch", "max_epochs": 1}
        tracking = own_tracking(tmp_path, model_name=None, system_metrics=False)
        run = {"output_dir": str(tmp_path / "run"), "training": training, "tracking": tracking}
        return write_small_training(tmp_path / "train.yaml", store, **run)

    return write


@pytest.mark.parametrize("words", [(), ("--dry-run",)])
def test_a_failed_audit_stops_a_training_before_it_starts(leaky, words, training, run_job):
    done = run_job("train_model", training(leaky), *words, code=2)
    assert "check speakers failed: 1 speaker(s) in more than one split" in done.stderr
    assert "data.waive_audit=[speakers]" in done.stderr
    assert not (leaky.parent / "run").exists()


def test_a_waiver_trains_and_is_recorded_everywhere(leaky, training, run_job):
    done = run_job("train_model", training(leaky), "data.waive_audit=[speakers]")
    folder = leaky.parent / "run"
    assert "waived: check speakers failed" in done.stderr
    assert "the audit of the store was waived: speakers" in done.stdout
    assert json.loads((folder / "summary.json").read_text())["waived_audit"] == ["speakers"]
    assert "Checks of the audit were waived: speakers" in (folder / "report.html").read_text()
    assert json.loads((folder / "best/model.json").read_text())["provenance"]["waived_audit"] == ["speakers"]
    start = json.loads((folder / "journal.jsonl").read_text().splitlines()[0])
    assert start["tags"]["vavl.waived_audit"] == "speakers"


def test_a_failed_audit_stops_a_comparison(leaky, tmp_path, training, run_job):
    compare = tmp_path / "compare.yaml"
    content = {
        "output_dir": str(tmp_path / "compared"), "training": str(training(leaky)),
        "objective_sets": {"one": {}, "two": {"objectives.supervised.label_smoothing": 0.2}},
    }  # fmt: skip
    compare.write_text(yaml.safe_dump(content))
    done = run_job("compare_objectives", compare, "--dry-run", code=2)
    assert "check speakers failed" in done.stderr
    run_job("compare_objectives", compare, "--dry-run", "overrides.data.waive_audit=[speakers]")
