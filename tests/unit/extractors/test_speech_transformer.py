"""Speech networks: the library's own numbers, true times, chunks whose borders do not show."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from rendered_media import tone, write_wav
from tiny_speech import KINDS, LAYERS, WIDTH, save_tiny_speech

from vavl.errors import ClipError, ConfigError, StoreError
from vavl.extractors.extractor import audio_extractor, audio_info, extractor_of
from vavl.extractors.settings import SpeechTransformerSettings
from vavl.extractors.speech_transformer import normalised
from vavl.media.sound import read_audio

VARIANTS = [(kind, is_large) for kind in KINDS for is_large in (False, True)]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Return the directory of each variant: type of model, and whether it is built as the large ones."""
    root = tmp_path_factory.mktemp("models")
    return {
        (kind, is_large): save_tiny_speech(root / f"{kind}_{is_large}", kind, is_large) for kind, is_large in VARIANTS
    }


@pytest.fixture(scope="module")
def voice(tmp_path_factory):
    """Return a file of 3.01 s at 44.1 kHz: noise whose loudness moves."""
    samples = np.random.default_rng(0).normal(0, 0.1, 132_741) * (1.2 + np.sin(np.arange(132_741) / 9000))
    return write_wav(tmp_path_factory.mktemp("sound") / "voice.wav", samples, 44_100)


def settings_of(folder, layers=(1, LAYERS), **changes) -> SpeechTransformerSettings:
    backbone = {"folder": folder, "device": "cpu", "precision": changes.pop("precision", "fp32")}
    return SpeechTransformerSettings(backbone=backbone, layers=layers, **changes)


def states_of(folder, waveform: np.ndarray) -> list[torch.Tensor]:
    """Return all hidden states as the library gives them, the last one as the network puts it out."""
    from transformers import AutoModel, Wav2Vec2FeatureExtractor

    prepared = Wav2Vec2FeatureExtractor.from_pretrained(folder)(waveform, sampling_rate=16_000, return_tensors="pt")
    with torch.no_grad():
        found = AutoModel.from_pretrained(folder).eval()(prepared.input_values, output_hidden_states=True)
    return [*(state[0] for state in found.hidden_states[:LAYERS]), found.last_hidden_state[0]]


@pytest.mark.parametrize(("kind", "is_large"), VARIANTS)
def test_layers_and_their_means_are_those_of_the_library(folders, voice, kind, is_large):
    folder = folders[kind, is_large]
    states = states_of(folder, read_audio(voice, 16_000))
    for first, last in ((0, 0), (2, 2), (LAYERS, LAYERS), (0, LAYERS), (1, 2)):
        found = audio_extractor(settings_of(folder, (first, last)))(voice)
        expected = torch.stack(states[first : last + 1]).mean(dim=0).numpy()
        np.testing.assert_allclose(found.values, expected, atol=2e-5)
        assert found.values.dtype == found.frame_times.dtype == np.float32


@pytest.mark.parametrize(("kind", "is_large"), VARIANTS)
def test_a_batch_of_chunks_gives_what_each_gives_alone(folders, voice, kind, is_large):
    chunked = {"chunk_s": 1.0, "overlap_s": 0.3}
    alone, together = (
        audio_extractor(settings_of(folders[kind, is_large], batch_size=size, **chunked))(voice) for size in (1, 8)
    )
    np.testing.assert_allclose(together.values, alone.values, atol=2e-5)


def test_chunks_keep_frames_and_times_and_their_borders_do_not_show(folders, voice):
    folder = folders["wavlm", True]
    whole = audio_extractor(settings_of(folder))(voice)
    chunked = audio_extractor(settings_of(folder, chunk_s=1.0, overlap_s=0.4))(voice)
    cut = audio_extractor(settings_of(folder, chunk_s=1.0, overlap_s=0))(voice)
    assert chunked.values.shape == whole.values.shape == cut.values.shape == (150, WIDTH)
    np.testing.assert_array_equal(chunked.frame_times, whole.frame_times)
    faded, hard = (np.abs(found.values - whole.values).max() for found in (chunked, cut))
    assert faded < 0.5 * hard
    # From frame to frame nothing jumps more than it does in one piece.
    steps = [np.abs(np.diff(found.values, axis=0)).max() for found in (whole, chunked)]
    assert steps[1] < 1.05 * steps[0]


def test_a_frame_is_at_the_middle_of_the_samples_it_is_made_of(folders, tmp_path):
    """A changed sample changes the frames around it; before the transformer these are its receptive field."""
    from transformers import AutoModel

    folder = folders["hubert", True]
    times = audio_extractor(settings_of(folder))(write_wav(tmp_path / "a.wav", tone(200, 1.0))).frame_times
    network = AutoModel.from_pretrained(folder).eval()
    click = torch.zeros(1, 16_000)
    click[0, 8000] = 1
    with torch.no_grad():
        still, clicked = (network.feature_extractor(clip)[0] for clip in (torch.zeros(1, 16_000), click))
    touched = (still != clicked).any(dim=0).nonzero().flatten().numpy()
    assert times[touched].mean() == pytest.approx(0.5, abs=0.01)
    assert np.all(np.abs(times[touched] - 0.5) <= 400 / 2 / 16_000 + 1e-6)
    assert len(times) == 49


def test_the_clip_is_normalised_as_the_library_does_and_only_if_the_model_says_so(folders, voice, tmp_path):
    from transformers import Wav2Vec2FeatureExtractor

    waveform = read_audio(voice, 16_000)
    theirs = Wav2Vec2FeatureExtractor(do_normalize=True)(waveform, sampling_rate=16_000).input_values[0]
    np.testing.assert_allclose(normalised(waveform), theirs, atol=1e-5)
    soft = write_wav(tmp_path / "soft.wav", waveform / 4)
    plain = save_tiny_speech(tmp_path / "plain", is_large=True, do_normalize=False)
    for folder, same in ((folders["wav2vec2", True], True), (plain, False)):
        extract = audio_extractor(settings_of(folder))
        assert np.allclose(extract(voice).values, extract(soft).values, atol=0.05) == same


def test_silence_after_a_click_gives_finite_values(folders, tmp_path):
    path = write_wav(tmp_path / "a.wav", np.eye(1, 8000)[0])
    for folder in folders.values():
        assert np.isfinite(audio_extractor(settings_of(folder))(path).values).all()


def test_bf16_differs_from_fp32_by_rounding_only(folders, voice):
    exact, rounded = (
        audio_extractor(settings_of(folders["wav2vec2", True], precision=precision))(voice).values
        for precision in ("fp32", "bf16")
    )
    difference = np.abs(exact - rounded)
    assert 0 < difference.mean() < 0.05 * np.abs(exact).mean()


def test_a_clip_without_a_frame_is_refused(folders, tmp_path):
    extract = audio_extractor(settings_of(folders["wav2vec2", False]))
    with pytest.raises(ClipError, match="399 samples at 16000 Hz give no frame: it takes 400"):
        extract(write_wav(tmp_path / "a.wav", np.ones(399) / 2))
    assert len(extract(write_wav(tmp_path / "b.wav", np.ones(400) / 2)).values) == 1


def test_weights_of_a_network_with_a_head_are_used_and_half_a_network_is_refused(folders, voice, tmp_path):
    """Published directories often hold a network for recognition or pretraining; its speech part is all there."""
    import transformers
    from safetensors.torch import load_file, save_file

    source = folders["wav2vec2", True]
    headed = transformers.Wav2Vec2ForCTC.from_pretrained(source)
    folder = tmp_path / "headed"
    headed.save_pretrained(folder)
    (folder / "preprocessor_config.json").write_bytes((source / "preprocessor_config.json").read_bytes())
    found, plain = (audio_extractor(settings_of(place))(voice).values for place in (folder, source))
    np.testing.assert_array_equal(found, plain)

    weights = load_file(folder / "model.safetensors")
    kept = {name: value for name, value in weights.items() if "layers.1.attention.q_proj" not in name}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ConfigError, match=r"2 weights of Wav2Vec2Model are missing"):
        audio_extractor(settings_of(folder))


def test_provenance_names_type_layers_and_the_hash_of_the_weights(folders, voice):
    settings = settings_of(folders["hubert", False], layers=(1, 2))
    info = audio_info(settings)
    assert (info.extractor, info.width, info.frame_rate_hz) == ("speech_transformer", WIDTH, 50)
    assert (info.settings["kind"], info.settings["layers"]) == ("hubert", [1, 2])
    assert len(info.settings["backbone_sha256"]["model.safetensors"]) == 64
    again = extractor_of(asdict(info), "audio")(voice)
    np.testing.assert_allclose(again.values, audio_extractor(settings)(voice).values, atol=1e-6)


def test_other_weights_than_those_of_the_store_are_refused(folders, tmp_path):
    recorded = asdict(audio_info(settings_of(folders["hubert", False])))
    other = save_tiny_speech(tmp_path / "other", "hubert", seed=1)
    recorded["settings"]["backbone"]["folder"] = str(other)
    with pytest.raises(StoreError, match=r"made with other files .*model\.safetensors"):
        extractor_of(recorded, "audio")
