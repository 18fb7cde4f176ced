"""Whisper's encoder: windows filled up on the left, the library's own layers, long clips in windows that overlap."""

from __future__ import annotations

from dataclasses import asdict

import numpy as np
import pytest
import torch
from rendered_media import write_wav
from tiny_speech import LAYERS, WIDTH, WINDOW, save_tiny_whisper

from vavl.errors import ClipError, ConfigError
from vavl.extractors.extractor import audio_extractor, audio_info, check_features, extractor_of
from vavl.extractors.settings import SpeechTransformerSettings

RATE = 16_000


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return save_tiny_whisper(tmp_path_factory.mktemp("models") / "whisper")


def settings_of(folder, layers=(2, 2), **changes) -> SpeechTransformerSettings:
    backbone = {"folder": folder, "device": "cpu"}
    return SpeechTransformerSettings(backbone=backbone, layers=layers, **{"overlap_s": 0.4, **changes})


def voice(samples: int) -> np.ndarray:
    noise = np.random.default_rng(0).normal(0, 0.1, samples)
    return (noise * (1.2 + np.sin(np.arange(samples) / 3000))).astype(np.float32)


def states_of(folder, waveform: np.ndarray) -> list[np.ndarray]:
    """Return all hidden states (time, channel) of one window as the library gives them."""
    from transformers import WhisperFeatureExtractor
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    filled = np.pad(waveform[-RATE:], (max(0, RATE - len(waveform)), 0))
    prepare = WhisperFeatureExtractor.from_pretrained(folder)
    spectra = prepare(
        filled, sampling_rate=RATE, return_tensors="pt", do_normalize=getattr(prepare, "do_normalize", False)
    )
    with torch.no_grad():
        found = WhisperEncoder.from_pretrained(folder)(spectra.input_features, output_hidden_states=True)
    return [state[0].numpy() for state in found.hidden_states]


@pytest.mark.parametrize("samples", [RATE, RATE + 100, 9_700, 320])
def test_layers_are_those_of_the_library_on_a_window_that_is_silent_before_the_clip(tiny, tmp_path, samples):
    path = write_wav(tmp_path / "a.wav", voice(samples))
    states = states_of(tiny, voice(samples))
    frames = samples // 320
    for layers in ((0, 0), (2, 2), (LAYERS, LAYERS), (1, 2)):
        found = audio_extractor(settings_of(tiny, layers))(path)
        expected = np.stack(states[layers[0] : layers[1] + 1]).mean(axis=0)[-frames:]
        np.testing.assert_allclose(found.values, expected, atol=2e-4)
    # The last frame begins a stride before the end of the clip.
    np.testing.assert_allclose(found.frame_times[-1], (samples - 320) / RATE, atol=1e-6)
    np.testing.assert_allclose(np.diff(found.frame_times), 0.02, atol=1e-5)


def test_a_frame_is_at_the_time_of_the_sound_that_it_sees(tiny, tmp_path):
    """Before the first block a click changes the frames around it."""
    still, clicked = voice(9_700), voice(9_700)
    clicked[4_000] += 0.02
    extract = audio_extractor(settings_of(tiny, (0, 0)))
    found = [extract(write_wav(tmp_path / f"{name}.wav", clip)) for name, clip in (("a", still), ("b", clicked))]
    change = np.abs(found[0].values - found[1].values).max(axis=1)
    touched = found[0].frame_times[change > 1e-3 * change.max()]
    assert touched.mean() == pytest.approx(4_000 / RATE, abs=0.01)


def test_layers_are_kept_side_by_side(tiny, tmp_path):
    path = write_wav(tmp_path / "a.wav", voice(RATE))
    settings = settings_of(tiny, (1, 3), keep_layers=True)
    info = audio_info(settings)
    assert (info.width, info.layers) == (3 * WIDTH, 3)
    alone = [audio_extractor(settings_of(tiny, (number, number)))(path).values for number in (1, 2, 3)]
    np.testing.assert_allclose(audio_extractor(settings)(path).values, np.concatenate(alone, axis=1), atol=1e-5)
    assert audio_info(settings_of(tiny, (1, 3))).layers == 1


def test_silence_before_and_after_the_sound_is_left_out_where_it_is_asked_for(tiny, tmp_path):
    """The network hears all of it, so the other frames stay as they are."""
    samples = np.zeros(RATE, np.float32)
    samples[4_000:9_000] = voice(5_000)
    path = write_wav(tmp_path / "late.wav", samples)
    whole, trimmed = (audio_extractor(settings_of(tiny, **one))(path) for one in ({}, {"trim_silence_db": 35}))
    start, end = trimmed.frame_times[[0, -1]]
    assert (start, end) == (pytest.approx(0.25, abs=0.03), pytest.approx(0.5625, abs=0.03))
    kept = (whole.frame_times >= start) & (whole.frame_times <= end)
    np.testing.assert_array_equal(trimmed.values, whole.values[kept])
    assert "trim_silence_db" not in audio_info(settings_of(tiny)).settings  # features of before keep their provenance


def test_a_longer_clip_goes_through_windows_whose_borders_do_not_show(tiny, tmp_path):
    path = write_wav(tmp_path / "long.wav", voice(41_000))
    found = [audio_extractor(settings_of(tiny, batch_size=size))(path) for size in (1, 8)]
    assert found[0].values.shape == (128, WIDTH)
    np.testing.assert_allclose(found[0].values, found[1].values, atol=2e-5)
    last = states_of(tiny, voice(41_000)[-RATE:])[2]
    # The end of the last window is in no other.
    np.testing.assert_allclose(found[0].values[-20:], last[-20:], atol=2e-4)
    assert len(last) == WINDOW
    hard = audio_extractor(settings_of(tiny, overlap_s=0))(path)
    steps = [np.abs(np.diff(one.values, axis=0)).max() for one in (hard, found[0])]
    assert steps[1] < steps[0]


def test_the_encoder_of_a_whole_whisper_is_taken(tiny, tmp_path):
    whole = save_tiny_whisper(tmp_path / "whole", has_decoder=True)
    path = write_wav(tmp_path / "a.wav", voice(8_000))
    found, alone = (audio_extractor(settings_of(folder))(path).values for folder in (whole, tiny))
    np.testing.assert_array_equal(found, alone)


def test_sound_is_normalized_with_the_silence_before_it_where_the_models_preprocessing_says_so(tiny, tmp_path):
    normalizing = save_tiny_whisper(tmp_path / "normalizing", do_normalize=True)
    path = write_wav(tmp_path / "a.wav", voice(8_000))
    found, plain = (audio_extractor(settings_of(folder))(path).values for folder in (normalizing, tiny))
    np.testing.assert_allclose(found, states_of(normalizing, voice(8_000))[2][-25:], atol=2e-4)
    assert np.abs(found - plain).max() > 0.01


def test_provenance_gives_the_extractor_back(tiny, tmp_path):
    settings = settings_of(tiny, (1, 2), keep_layers=True)
    info = audio_info(settings)
    assert (info.settings["kind"], info.frame_rate_hz) == ("whisper", 50)
    path = write_wav(tmp_path / "a.wav", voice(8_000))
    again = extractor_of(asdict(info), "audio")(path)
    np.testing.assert_array_equal(again.values, audio_extractor(settings)(path).values)


@pytest.mark.parametrize(
    ("preprocessing", "settings", "problem"),
    [
        ({}, {"layers": (2, 4)}, r"layers: \[2, 4\], but the model has 3"),
        ({}, {"kind": "wavlm"}, "whisper, not wavlm"),
        ({}, {"overlap_s": 0.6}, r"overlap_s: 0\.6 s, more than half of the model's window of 1 s"),
        ({"sampling_rate": 0}, {}, "sampling_rate 0"),
        ({"hop_length": None}, {}, "not that of a speech model"),
    ],
)
def test_what_does_not_fit_is_refused_before_a_file_is_read(tmp_path, preprocessing, settings, problem):
    folder = save_tiny_whisper(tmp_path / "tiny", **preprocessing)
    with pytest.raises(ConfigError, match=problem):
        check_features(settings_of(folder, **settings), "audio")


def test_a_clip_without_a_frame_is_refused(tiny, tmp_path):
    with pytest.raises(ClipError, match="319 samples at 16000 Hz give no frame"):
        audio_extractor(settings_of(tiny))(write_wav(tmp_path / "a.wav", voice(319)))
