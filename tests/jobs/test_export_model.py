"""The job export_model: the file says what the model says, is refused where it does not, and stands alone."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from served_models import CLASSES, write_media_model, write_model

from vavl.models.clips import ClipFeatures
from vavl.models.saved_model import load_model
from vavl.models.settings import AttributeTask
from vavl.serving import onnx_export
from vavl.serving.onnx_export import ExportSettings

onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed: pip install .[export]")
onnxscript = pytest.importorskip("onnxscript", reason="onnxscript is not installed: pip install .[export]")
ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "jobs/configs/export/demo.yaml"


def export(run_job, folder: Path, model: Path, *words: str, code: int = 0):
    return run_job("export_model", CONFIG, f"model={model}", f"output_dir={folder}", *words, code=code)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_media_model(tmp_path_factory.mktemp("model"), max_frames=60)


@pytest.fixture(scope="module")
def written(model, tmp_path_factory) -> Path:
    """Export the model once; an export takes a minute on a busy machine."""
    folder = tmp_path_factory.mktemp("export")
    settings = ExportSettings(model=str(model))
    (folder / "exported.json").write_text(json.dumps(onnx_export.export_onnx(model, settings, folder)))
    return folder


@pytest.fixture
def copied(written, monkeypatch):
    """Let the job take the file that was exported already for whatever model."""
    content = (written / "model.onnx").read_bytes()
    monkeypatch.setattr(onnx_export, "_write", lambda model, target: target.write_bytes(content))


def test_the_file_predicts_what_the_model_predicts(model, written):
    exported = json.loads((written / "exported.json").read_text())
    assert exported["opset"] == 18
    assert exported["inputs"] == ["audio", "audio_frames", "video", "video_frames"]
    assert exported["outputs"] == ["audio_video_prediction", "audio_prediction", "video_prediction"]
    assert list(exported["largest_difference"]) == ["audio_video", "audio", "video"]
    assert 0 < max(exported["largest_difference"].values()) <= exported["tolerance"] == 1e-4
    session = onnxruntime.InferenceSession(written / "model.onnx", providers=["CPUExecutionProvider"])
    saved, generator = load_model(model), np.random.default_rng(1)
    audio = generator.normal(-60, 15, (1, 23, saved.description.audio.width)).astype(np.float32)
    video = generator.normal(0, 1, (1, 11, saved.description.video.width)).astype(np.float32)
    given = {"audio": audio, "audio_frames": np.array([20]), "video": video, "video_frames": np.array([11])}
    expected = saved.predict([
        ClipFeatures(audio[0, :20], video[0]), ClipFeatures(audio=audio[0, :20]), ClipFeatures(video=video[0]),
    ])  # fmt: skip
    for values, prediction in zip(session.run(exported["outputs"], given), expected, strict=True):
        np.testing.assert_allclose(values[0], prediction.probabilities, atol=1e-5)
    metadata = session.get_modelmeta().custom_metadata_map
    assert json.loads(metadata["vavl.task"])["classes"] == list(CLASSES)
    assert metadata["vavl.max_frames"] == "60"
    assert json.loads(metadata["vavl.extractors"])["audio"]["extractor"] == "log_mel"


@pytest.mark.usefixtures("copied")
def test_the_job_leaves_file_and_summary(tmp_path, run_job, model):
    done = export(run_job, tmp_path / "out", model)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"model.onnx", "summary.json"}
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert summary["model"] == {"address": str(model), "name": None, "version": None}
    assert summary["classes"] == list(CLASSES)
    assert summary["compared_clips"] == 5 * 5 + 5 + 5
    assert summary["versions"].keys() == {"torch", "onnx", "onnxscript", "onnxruntime"}
    assert "largest difference, audio_video" in done.stdout


@pytest.mark.usefixtures("copied")
def test_a_file_that_differs_is_refused_and_not_kept(tmp_path, run_job, model):
    done = export(run_job, tmp_path / "out", model, "tolerance=1e-12", code=1)
    assert "model.onnx: tolerance: differs from the model by" in done.stderr
    assert "fix: raise tolerance" in done.stderr
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("copied")
def test_the_file_of_another_model_is_found_and_an_earlier_one_does_not_stay(tmp_path, run_job):
    """Weights differ by 0.1 %."""
    other = write_media_model(tmp_path / "model", max_frames=60, spread=0.3003)
    (tmp_path / "out").mkdir()
    (tmp_path / "out/model.onnx").write_bytes(b"earlier")
    export(run_job, tmp_path / "out", other, code=1)
    assert not (tmp_path / "out/model.onnx").exists()


@pytest.mark.slow
def test_a_model_of_one_modality_and_of_attributes_has_its_own_inputs_and_outputs(tmp_path, run_job):
    one = write_model(tmp_path / "model", AttributeTask(attributes=("arousal", "valence")), fusion_trained=False)
    content = json.loads((one / "model.json").read_text())
    content["video"] |= {"trained": False, "statistics": {}}
    (one / "model.json").write_text(json.dumps(content))
    export(run_job, tmp_path / "out", one)
    summary = json.loads((tmp_path / "out/summary.json").read_text())
    assert (summary["inputs"], summary["outputs"]) == (["audio", "audio_frames"], ["audio_prediction"])


def test_a_dry_run_writes_nothing(tmp_path, run_job, model):
    done = export(run_job, tmp_path / "out", model, "--dry-run")
    assert "audio_video_prediction, audio_prediction" in done.stdout
    assert not (tmp_path / "out").exists()


def test_a_model_that_needs_its_speakers_statistics_is_refused(tmp_path, refused):
    made = write_model(tmp_path / "model", speaker_normalisation=True)
    out = tmp_path / "out"
    refused("export_model", CONFIG, f"model={made}", f"output_dir={out}", message="speaker_normalisation", made=out)


def test_help_lists_its_settings(run_job, capsys):
    with pytest.raises(SystemExit):
        run_job("export_model", CONFIG, "--help")
    assert "tolerance = 0.0001" in capsys.readouterr().out
