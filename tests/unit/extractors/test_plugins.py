"""An extractor of another distribution: the worked example of the README, installed as pip would."""

from __future__ import annotations

import json
import logging
import shutil
import sys
from dataclasses import asdict

import numpy as np
import pytest
from plugin_distributions import install_plugin
from rendered_media import tone, write_wav
from served_models import served, values_of, write_model
from small_media_corpus import write_small_corpus

from vavl.config.load import validate
from vavl.errors import ConfigError, StoreError
from vavl.extraction.settings import FeatureSettings
from vavl.extractors.extractor import audio_extractor, audio_info, check_features, extractor_of
from vavl.features import ModalityInfo
from vavl.serving.registry import serving_code, serving_requirements
from vavl.store.store import FeatureStore


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    install_plugin(tmp_path / "site", monkeypatch, "vavl.extractors", "loudness_extractor", "loudness")


def uninstall(tmp_path):
    shutil.rmtree(tmp_path / "site")
    sys.modules.pop("loudness_extractor", None)


def features(**audio) -> FeatureSettings:
    return validate(FeatureSettings, {"audio": {"extractor": "loudness", **audio}}, "own.yaml")


def test_it_reads_sound_and_comes_back_from_what_a_store_says(tmp_path):
    settings = features(floor_db=-60).audio
    path = write_wav(tmp_path / "a.wav", tone(440, 0.5, amplitude=0.5))
    check_features(settings, "audio")
    found = audio_extractor(settings)(path)
    np.testing.assert_allclose(found.values, 20 * np.log10(0.5 / np.sqrt(2)), atol=0.1)
    info = audio_info(settings)
    assert info.extractor == "loudness"
    assert info.settings == {"extractor": "loudness", "floor_db": -60, "distribution": "own-plugin"}
    again = extractor_of(json.loads(json.dumps(asdict(info))), "audio")(path)
    np.testing.assert_array_equal(again.values, found.values)


def test_its_settings_are_those_of_a_configuration(tmp_path):
    made = features(floor_db=-60)
    assert made.model_dump(mode="json")["audio"] == {"extractor": "loudness", "floor_db": -60}
    assert FeatureSettings.model_validate(made.model_dump(mode="json")) == made


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"audio": {"extractor": "loudnes"}}, r"`loudnes` is not known; did you mean `loudness`\?; .*loudness \(own"),
        ({"audio": {"extractor": "logmel"}}, r"did you mean `log_mel`\?"),
        ({"audio": {"extractor": "loudness", "floor": 1}}, r"loudness.floor: unknown key; did you mean `floor_db`\?"),
        ({"audio": {"extractor": "loudness", "floor_db": 1}}, r"floor_db: Input should be less than or equal to 0"),
        ({"video": {"extractor": "loudness"}}, r"the plug-in `loudness` makes features of audio, not of video"),
        ({"video": {"extractor": "vgg"}}, r"`vgg` is not known; .*face_descriptor.*image_network.*openface"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(content, message):
    with pytest.raises(ConfigError, match=message):
        validate(FeatureSettings, content, "own.yaml")


def test_a_video_plugin_is_checked_by_its_info(monkeypatch, tmp_path):
    import loudness_extractor

    from vavl.extractors.extracted import ExtractorPlugin

    def missing(settings):
        raise ConfigError("features.video", "extractor", "its weights are not here", "fetch them")

    plugin = ExtractorPlugin("video", loudness_extractor.LoudnessSettings, missing, loudness_extractor.extractor)
    monkeypatch.setattr(loudness_extractor, "loudness", plugin)
    settings = FeatureSettings.model_validate({"video": {"extractor": "loudness"}}).video
    with pytest.raises(ConfigError, match="its weights are not here"):
        check_features(settings, "video")


def test_a_corpus_is_prepared_with_it(tmp_path, run_job):
    card = write_small_corpus(tmp_path)
    config = tmp_path / "prepare.yaml"
    config.write_text(
        f"output_dir: {tmp_path}/store\ncard: {card}\nroot: {tmp_path}/media\nworkers: 0\n"
        "features: {audio: {extractor: loudness}}\n"
    )
    run_job("prepare_corpus", config)
    store = FeatureStore.open(tmp_path / "store")
    assert store.info["audio"].channels == ("level_db",)
    assert store.info["audio"].settings["distribution"] == "own-plugin"
    assert store.features("audio", 0).shape == (10, 1)


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "model", audio=audio_info(features().audio))


def test_a_registered_model_reads_media_with_it_and_asks_for_its_distribution(tmp_path, model, caplog):
    assert "own-plugin==1.2" in serving_requirements(json.loads((model / "model.json").read_text()))
    code = serving_code(json.loads((model / "model.json").read_text()))
    assert {"extractors/pretrained.py", "extractors/functionals.py"} <= set(code)
    path = write_wav(tmp_path / "a.wav", tone(440, 0.5, amplitude=0.5))
    with caplog.at_level(logging.WARNING):
        answer = served(model, tmp_path / "served").predict([{"audio_path": str(path)}])
    assert np.isfinite(values_of(answer)).all()
    assert "plug-in" not in caplog.text


def test_without_its_distribution_a_model_says_so_when_it_is_loaded_and_for_every_file(tmp_path, model, caplog):
    path = write_wav(tmp_path / "a.wav", tone(440, 0.5, amplitude=0.5))
    uninstall(tmp_path)
    with caplog.at_level(logging.WARNING):
        loaded = served(model, tmp_path / "served")
    missing = "audio features are made by the plug-in `loudness` of own-plugin, which is not installed here"
    assert missing in caplog.text
    answer = loaded.predict([{"audio_path": str(path)}, {"audio_features": [[-3.0]]}])
    assert "of own-plugin, which is not installed here" in answer["error"][0]
    assert "pip install own-plugin" in answer["error"][0]
    assert answer["error"][1] is None


def test_another_version_of_it_is_refused(tmp_path):
    stored = {**asdict(audio_info(features().audio)), "version": "0"}
    with pytest.raises(StoreError, match="made by loudness 0, here is 1"):
        extractor_of(stored, "audio")


def test_what_it_gives_is_known_by_name_and_version():
    one, other = audio_info(features().audio), audio_info(features(floor_db=-60).audio)
    assert isinstance(one, ModalityInfo)
    assert one.provenance != other.provenance
