"""What is known of a speech network before its weights are read, and what is refused then."""

from __future__ import annotations

import json

import pytest
from tiny_speech import KINDS, LAYERS, WIDTH, save_tiny_speech

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.extractor import check_features
from vavl.extractors.settings import SpeechTransformerSettings
from vavl.extractors.speech_transformer import FrameGrid, find_speech_model

COMMIT = "0123456789" * 4
NAME = "facebook/wav2vec2-large-robust"


def settings_of(folder, **changes) -> SpeechTransformerSettings:
    return SpeechTransformerSettings(backbone={"folder": folder}, **{"layers": (1, 1), **changes})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_speech(tmp_path_factory.mktemp("models") / "tiny", "wavlm")


def copied(tiny, folder, name, content):
    """Copy a model's directory with other content in one of its files."""
    folder.mkdir()
    for path in tiny.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / name).write_text(json.dumps(content))
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_rate_grid_layers_and_width_are_read(tmp_path, kind):
    model = find_speech_model(settings_of(save_tiny_speech(tmp_path / kind, kind), kind=kind))
    assert model.grid == FrameGrid(rate_hz=16_000, stride=320, receptive=400)
    assert (model.kind, model.layers, model.width, model.is_normalised) == (kind, LAYERS, WIDTH, True)


@pytest.mark.parametrize(
    ("name", "content", "problem"),
    [
        ("config.json", {"model_type": "bert"}, "bert, not wav2vec2, wavlm, hubert"),
        ("config.json", {}, "None, not wav2vec2"),
        ("preprocessor_config.json", {"do_normalize": True}, r"not that of a speech model: KeyError\('sampl"),
        ("preprocessor_config.json", {"sampling_rate": 0, "do_normalize": True}, "sampling_rate 0"),
        ("preprocessor_config.json", {"sampling_rate": None}, "not that of a speech model: TypeError"),
    ],
)
def test_files_that_are_none_of_a_speech_model_are_refused(tiny, tmp_path, name, content, problem):
    with pytest.raises(ConfigError, match=problem):
        check_features(settings_of(copied(tiny, tmp_path / "other", name, content)), "audio")


def test_another_type_than_asked_for_and_layers_that_it_lacks_are_refused(tiny):
    with pytest.raises(ConfigError, match="model_type: wavlm, not hubert"):
        check_features(settings_of(tiny, kind="hubert"), "audio")
    with pytest.raises(ConfigError, match=r"\[1, 4\], but the model has 3"):
        check_features(settings_of(tiny, layers=(1, 4)), "audio")


def test_a_missing_folder_and_a_missing_download_say_what_to_fill(tmp_path, monkeypatch):
    from huggingface_hub import constants

    with pytest.raises(ConfigError, match=r"(?s)absent does not exist.*config\.json, model\.safetensors, prepro"):
        check_features(settings_of(tmp_path / "absent"), "audio")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    hub = SpeechTransformerSettings(backbone={"hub": NAME, "revision": COMMIT}, layers=(12, 12))
    with pytest.raises(ConfigError, match=rf"(?s)cannot be downloaded.*hf download {NAME}.*{tmp_path}/hub"):
        check_features(hub, "audio")


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ({"layers": [3, 2]}, r"layers \[3, 2\] are no range"),
        ({"layers": [-1, 2]}, "are no range"),
        ({"layers": [1, 2], "chunk_s": 4, "overlap_s": 3}, "more than half of chunk_s"),
        ({}, "layers"),
        ({"layers": [1, 1], "backbone": {"hub": NAME}}, "needs a revision"),
        ({"layers": [1, 1], "chunk_sec": 4}, "did you mean `chunk_s`"),
    ],
)
def test_settings_that_do_not_fit_are_refused(content, problem):
    audio = {"extractor": "speech_transformer", "backbone": {"folder": "models/wavlm"}, **content}
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSettings, {"audio": audio}, "test")
