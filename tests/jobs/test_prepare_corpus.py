"""The job prepare_corpus: exit codes, summary, dry run, and a kill in the middle."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import psutil
import pytest
import yaml
from own_process import ROOT, start_job
from small_media_corpus import write_card, write_small_corpus

from vavl.config.files import read_json
from vavl.config.load import read_config
from vavl.corpora.manifest import Manifest
from vavl.job_config import PrepareCorpusJob
from vavl.store.store import FeatureStore


@pytest.fixture(scope="module")
def corpus(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("corpus")
    write_small_corpus(folder, takes=1)
    return folder


def write_config(corpus: Path, output_dir: Path, **changes: object) -> Path:
    # Next to the card: a configuration reads no files elsewhere.
    path = corpus / f"{output_dir.parent.name}_{output_dir.name}.yaml"
    content = {
        "output_dir": str(output_dir), "card": str(corpus / "tiny.yaml"), "root": str(corpus / "media"), "workers": 0,
    }  # fmt: skip
    path.write_text(yaml.safe_dump({**content, **changes}))
    return path


def test_a_corpus_becomes_a_store_with_a_summary(run_job, corpus, tmp_path):
    store = tmp_path / "store"
    done = run_job("prepare_corpus", write_config(corpus, store))
    summary = read_json(store / "summary.json")
    assert summary["clips"] == summary["paired_clips"] == len(Manifest.read(store)) == 12
    assert summary["store_hash"] == FeatureStore.open(store).hash
    assert summary["clips_per_second"] > 0
    assert read_config(PrepareCorpusJob, store / "config.yaml").output_dir == store
    assert "features of tiny" in done.stdout
    assert f"next: python jobs/train_model.py CONFIG.yaml data.store={store}" in done.stdout


def test_a_dry_run_validates_and_writes_nothing(run_job, corpus, tmp_path):
    done = run_job("prepare_corpus", write_config(corpus, tmp_path / "store"), "--dry-run")
    assert "nothing was started" in done.stdout
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize(
    ("override", "problem"),
    [
        ("card=missing.yaml", "missing.yaml: cannot be read"),
        ("root=/no/such/folder", "does not exist"),
        ("features.audio.hop_sm=10", "did you mean `hop_ms`"),
        ("workers=many", "workers"),
        ("features.audio.mel_bands=512", "narrower than the frequency resolution"),
    ],
)
def test_wrong_input_is_named_with_exit_code_2(refused, corpus, tmp_path, override, problem):
    refused("prepare_corpus", write_config(corpus, tmp_path / "store"), override, "--dry-run", message=problem)


@pytest.mark.parametrize("words", [["--dry-run"], []])
def test_a_missing_model_is_named_before_anything_is_decoded(run_job, corpus, tmp_path, words):
    model = {"folder": str(tmp_path / "absent")}
    audio = {"extractor": "speech_transformer", "backbone": model, "layers": [12, 12]}
    config = write_config(corpus, tmp_path / "store", features={"audio": audio})
    done = run_job("prepare_corpus", config, *words, code=2)
    assert f"{tmp_path / 'absent'} does not exist" in done.stderr
    assert "fill it with config.json, model.safetensors, preprocessor_config.json" in done.stderr
    assert not (tmp_path / "store").exists()


def test_a_directory_that_cannot_be_written_is_exit_code_2(refused, corpus, tmp_path):
    (tmp_path / "file").write_text("not a directory")
    config = write_config(corpus, tmp_path / "store")
    refused("prepare_corpus", config, f"output_dir={tmp_path / 'file/store'}", message="cannot be written")


def test_too_many_bad_files_are_exit_code_2(run_job, corpus, tmp_path):
    copy = Path(shutil.copytree(corpus, tmp_path / "corpus"))
    for name in ("f01_calm_00", "f01_glad_00"):
        (copy / "media/audio" / f"{name}.wav").write_bytes(b"")
    config = write_config(copy, tmp_path / "store")
    assert "max_quarantined_share" in run_job("prepare_corpus", config, code=2).stderr
    run_job("prepare_corpus", config, "max_quarantined_share=0.2")
    assert read_json(tmp_path / "store/summary.json")["quarantined"] == 2


def test_other_settings_extract_one_modality_again_and_another_corpus_is_refused(run_job, corpus, tmp_path):
    config = write_config(corpus, tmp_path / "store")
    run_job("prepare_corpus", config)
    again = run_job("prepare_corpus", config, "features.audio.hop_ms=10")
    summary = read_json(tmp_path / "store/summary.json")
    assert {key: summary[key] for key in ("kept", "extracted_again", "added", "removed")} == {
        "kept": 12, "extracted_again": 12, "added": 0, "removed": 0,
    }  # fmt: skip
    assert "0 added, 12 kept, 12 extracted again, 0 removed" in again.stdout
    write_card(corpus / "other.yaml", name="other")
    other = run_job("prepare_corpus", config, f"card={corpus / 'other.yaml'}", "--dry-run", code=2)
    assert "resume=false" in other.stderr


@pytest.mark.ray
def test_a_killed_job_continues_and_gives_the_same_bytes_as_no_workers(run_job, monkeypatch, tmp_path):
    """One worker of Ray, the job killed in the middle, then continued by two; next to it a job without Ray."""
    write_small_corpus(tmp_path / "corpus", takes=6, frames=6)
    killed = write_config(tmp_path / "corpus", tmp_path / "killed", workers=1)
    whole = write_config(tmp_path / "corpus", tmp_path / "whole", workers=0)
    parts = tmp_path / "killed/parts"

    job = start_job("prepare_corpus", killed, log=tmp_path / "killed.log", cwd=ROOT)
    job.wait_until(lambda: list(parts.glob("*-*.json")))
    processes = psutil.Process(job.process.pid).children(recursive=True)
    job.process.kill()
    job.end()
    # Ray's workers end by themselves when the job is gone; its two agents may take minutes.
    agents = [process for process in processes if process.is_running() and "Agent" in process.name()]
    workers = [process for process in processes if process not in agents]
    assert workers
    assert not psutil.wait_procs(workers, timeout=60)[1]
    for agent in agents:
        agent.kill()
    assert not (tmp_path / "killed/store.json").exists()
    finished = {path: path.stat().st_mtime_ns for path in parts.glob("*-*.json")}
    assert finished

    monkeypatch.chdir(ROOT)
    for config, workers in ((killed, 2), (whole, 0)):
        run_job("prepare_corpus", config, f"workers={workers}")
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    summary = read_json(tmp_path / "killed/summary.json")
    assert 0 < summary["kept"] < 144
    assert summary["kept"] + summary["extracted"] == 144
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")
    FeatureStore.open(tmp_path / "killed").verify()


def contents(store: Path) -> dict[str, bytes]:
    """Return the files of a store by name, but for those that name the directory or the time."""
    files = [path for path in store.rglob("*") if path.is_file() and path.name not in ("summary.json", "config.yaml")]
    assert len(files) > 10
    return {path.relative_to(store).as_posix(): path.read_bytes() for path in files}


@pytest.mark.realdata
@pytest.mark.slow
def test_ravdess_becomes_a_store_of_1140_clips(run_job, monkeypatch, tmp_path):
    if not os.environ.get("RAVDESS_ROOT"):
        pytest.skip("RAVDESS_ROOT is not set")
    monkeypatch.chdir(ROOT)
    # Whole recordings, frame by frame: their lengths are known.
    whole = "features.audio={extractor: log_mel, hop_ms: 20}"
    run_job("prepare_corpus", ROOT / "jobs/configs/prepare/ravdess.yaml", f"output_dir={tmp_path}", whole)
    summary = read_json(tmp_path / "summary.json")
    assert {key: summary[key] for key in ("audio_clips", "video_clips", "paired_clips", "quarantined")} == {
        "audio_clips": 1140, "video_clips": 1140, "paired_clips": 1140, "quarantined": 0,
    }  # fmt: skip
    store, manifest = FeatureStore.open(tmp_path), Manifest.read(tmp_path)
    store.verify()
    lengths = store.lengths("audio") / 50
    assert 2.5 < lengths.min() < lengths.max() < 6
    row = int(store.rows("audio", manifest.table["clip_id"])[0])
    # The one frame of the action units stands in the middle of the sound.
    middle = store.frame_times("audio", row).mean()
    np.testing.assert_allclose(store.frame_times("video", row), middle, atol=0.03)


def test_the_backbone_of_the_readme_makes_a_store(tmp_path, monkeypatch, run_job):
    """The file is used as it stands, in a directory with a tiny network in place of the one it names."""
    from tiny_speech import WIDTH, save_tiny_speech

    example = Path(__file__).parents[1] / "examples/backbone.yaml"
    monkeypatch.setenv("VAVL_ROOT", str(tmp_path))
    save_tiny_speech(tmp_path / "models/wavlm-base-plus", "wavlm", num_hidden_layers=12)
    card = write_small_corpus(tmp_path)
    run_job("prepare_corpus", example, f"card={card}", f"root={tmp_path}/media", "workers=0")
    store = FeatureStore.open(tmp_path / "runs/stores/own_wavlm")
    assert store.info["audio"].width == WIDTH
    assert store.info["audio"].settings["layers"] == [6, 9]
