"""Learned weights of stored layers: trained, saved and shown, and refused where a store keeps no layers."""

from __future__ import annotations

import pytest

from vavl.errors import ConfigError
from vavl.features import ModalityInfo
from vavl.models.saved_model import load_model
from vavl.tracking.journal import Journal
from vavl.training.report import write_report
from vavl.training.run_checks import check_layers
from vavl.training.run_data import check_plan
from vavl.training.training_result import result_rows
from vavl.training.worker import read_outcome, train_on_worker

LAYERED = {"layers": 3}


@pytest.fixture
def weighing(plan):
    """Return a function that makes a plan with ``layer_weights``, of a store that keeps three layers or another one."""

    def make(corpus=LAYERED):
        return plan(corpus=corpus, model={**plan().model.model_dump(), "layer_weights": True})

    return make


def test_learned_weights_are_saved_with_the_model_and_shown(weighing):
    chosen = weighing()
    train_on_worker(chosen, lambda records: None)
    outcome = read_outcome(chosen.directory)
    shares = outcome["layer_weights"]["audio"]
    assert outcome["layer_weights"].keys() == {"audio"}
    assert list(shares) == ["1", "2", "3"]
    assert sum(shares.values()) == pytest.approx(1)
    assert len({round(share, 5) for share in shares.values()}) > 1  # learned
    model = load_model(chosen.directory / "best")
    assert (model.description.audio.layers, model.description.video.layers) == (3, 1)
    assert model.network.audio_path.weigh.shares().tolist() == pytest.approx(list(shares.values()))
    words = "audio layer 1: {:.2f}, layer 2: {:.2f}, layer 3: {:.2f}".format(*shares.values())
    summary = {"events": {}, "model_version": None, "model_name": None, "mlflow_run_id": None}
    assert ("layers", words) in result_rows(outcome, summary)
    page = write_report(chosen.directory, chosen, outcome, Journal(chosen.directory / "journal.jsonl")).read_text()
    assert words in page


def test_without_the_setting_layers_are_channels_like_others(plan):
    chosen = plan(corpus=LAYERED)
    train_on_worker(chosen, lambda records: None)
    outcome = read_outcome(chosen.directory)
    assert outcome["layer_weights"] == {}
    assert load_model(chosen.directory / "best").description.audio.layers == 1
    assert "layers" not in dict(result_rows(outcome, {"events": {}, "model_version": None, "model_name": None,
                                                      "mlflow_run_id": None}))  # fmt: skip


def test_a_store_without_layers_is_refused(weighing):
    with pytest.raises(ConfigError, match=r"model: layer_weights: is true, but no frame of .* \(audio: synthetic, "):
        check_plan(weighing(corpus={}))


@pytest.mark.parametrize(
    ("settings", "frame_rate_hz"),
    [
        ({"keep_layers": True, "layers": [2, 2]}, 50.0),  # one layer
        ({"keep_layers": True, "layers": [1, 4], "pooling": "statistics"}, None),  # statistics of all layers
        ({"layers": [1, 4]}, 50.0),  # their mean
    ],
)
def test_features_without_several_layers_in_a_frame_are_refused(weighing, settings, frame_rate_hz):
    info = {"audio": ModalityInfo("speech_transformer", "1", settings, frame_rate_hz, 8)}
    with pytest.raises(ConfigError, match=r"layer_weights.*holds several layers.*(?s:.)*keep_layers: true.*set model"):
        check_layers(weighing(), info)
