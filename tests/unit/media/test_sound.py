"""The sound of clips: rates, channels, formats and times are right; damaged files are told apart."""

from __future__ import annotations

import numpy as np
import pytest
import soundfile
from rendered_media import moving_square, tone, write_mp4, write_sound_only_mp4, write_wav
from sounding_media import write_clip, write_sound

from vavl.errors import ClipError
from vavl.media.sound import read_audio, read_sound, sound_seconds

RATES_HZ = (8000, 11_025, 16_000, 22_050, 32_000, 44_100, 48_000, 96_000)
WAV_FORMATS = ("PCM_U8", "PCM_16", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "IMA_ADPCM")


def burst(rate_hz: int, at_s: float = 0.7, seconds: float = 2.0) -> np.ndarray:
    """Return silence with a tone of 0.2 s in it."""
    samples = np.zeros(round(seconds * rate_hz))
    sound = tone(440, 0.2, rate_hz, amplitude=0.5)
    start = round(at_s * rate_hz)
    samples[start : start + len(sound)] = sound
    return samples


def burst_span_s(samples: np.ndarray, rate_hz: int = 16_000) -> tuple[float, float]:
    """Return begin and end of what is loud, in seconds."""
    power = np.convolve(samples.astype(float) ** 2, np.full(16, 1 / 16), mode="same")
    loud = np.flatnonzero(power > power.max() / 4)
    return loud[0] / rate_hz, loud[-1] / rate_hz


@pytest.mark.parametrize("rate_hz", RATES_HZ)
def test_a_tone_keeps_its_frequency_and_time_at_any_rate(tmp_path, rate_hz):
    samples = tone(440, 1.37, rate_hz, 0.5)
    found = read_audio(write_wav(tmp_path / "a.wav", samples, rate_hz), 16_000)
    assert abs(len(found) - len(samples) * 16_000 / rate_hz) <= 1
    # Sample by sample the tone itself: neither stretched, nor late, nor weaker.
    inside = slice(400, -400)
    np.testing.assert_allclose(found[inside], tone(440, 2, 16_000, 0.5)[: len(found)][inside], atol=2e-3)


def test_what_lies_above_half_the_new_rate_is_gone(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(15_000, 0.5, 48_000), 48_000)
    assert np.abs(read_audio(path, 16_000)[500:-500]).max() < 2e-3


@pytest.mark.parametrize("subtype", WAV_FORMATS)
def test_every_sample_format_gives_the_same_sound(tmp_path, subtype):
    path, samples = tmp_path / "a.wav", tone(440, 0.5, 16_000, 0.5)
    soundfile.write(path, samples, 16_000, subtype=subtype)
    coarse = {"PCM_U8": 0.01, "ULAW": 0.02, "IMA_ADPCM": 0.05}.get(subtype, 1e-4)
    found = read_audio(path, 16_000)[: len(samples)]
    settled = slice(20, None)  # an adaptive code takes a few samples
    np.testing.assert_allclose(found[settled], samples[settled], atol=coarse)
    assert found.dtype == np.float32


@pytest.mark.parametrize("channels", [2, 3])
def test_channels_are_averaged(tmp_path, channels):
    silent = np.zeros((8000, channels))
    silent[:, 1] = tone(300, 0.5, amplitude=0.8)
    found = read_audio(write_wav(tmp_path / "a.wav", silent), 16_000)
    np.testing.assert_allclose(found, silent[:, 1] / channels, atol=1e-4)


@pytest.mark.parametrize("suffix", [".flac", ".ogg", ".mp3", ".aiff", ".w64"])
def test_other_files_of_libsndfile_keep_length_and_time(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, burst(44_100), 44_100)
    found = read_audio(path, 16_000)
    assert burst_span_s(found) == pytest.approx((0.7, 0.9), abs=0.004)
    # Encoders of mp3 fill up the last block.
    assert len(found) / 16_000 == pytest.approx(2, abs=0.06 if suffix == ".mp3" else 1e-4)


@pytest.mark.parametrize(
    ("suffix", "codec"),
    [(".m4a", "aac"), (".mp4", "aac"), (".mka", "pcm_s24le"), (".mov", "pcm_u8"), (".webm", "libopus")],
)
@pytest.mark.parametrize("rate_hz", [16_000, 48_000])
def test_sound_in_a_container_keeps_length_and_time(tmp_path, suffix, codec, rate_hz):
    found = read_audio(write_sound(tmp_path / f"a{suffix}", burst(rate_hz), rate_hz, codec), 16_000)
    assert burst_span_s(found) == pytest.approx((0.7, 0.9), abs=0.004)
    assert len(found) / 16_000 == pytest.approx(2, abs=0.03 if suffix == ".webm" else 1e-4)


@pytest.mark.parametrize("suffix", [".mp4", ".mkv", ".mov", ".ts"])
def test_sound_that_starts_after_its_pictures_stays_at_its_time(tmp_path, suffix):
    sound = read_sound(write_clip(tmp_path / f"a{suffix}", burst(16_000), sound_at_s=0.5), 16_000)
    assert burst_span_s(sound.waveform) == pytest.approx((1.2, 1.4), abs=0.02)
    assert sound.note is not None
    assert "of silence before the audio" in sound.note


@pytest.mark.parametrize("suffix", [".mp4", ".mov"])
def test_time_counts_from_what_starts_first(tmp_path, suffix):
    both_late = write_clip(tmp_path / f"a{suffix}", burst(16_000), sound_at_s=0.48, pictures_at_s=0.48)
    assert burst_span_s(read_audio(both_late, 16_000)) == pytest.approx((0.7, 0.9), abs=0.07)
    pictures_late = write_clip(tmp_path / f"b{suffix}", burst(16_000), pictures_at_s=0.48)
    sound = read_sound(pictures_late, 16_000)
    assert burst_span_s(sound.waveform) == pytest.approx((0.7, 0.9), abs=0.004)
    assert len(sound.waveform) / 16_000 == pytest.approx(2.48, abs=0.001)
    assert sound.note == "0.48 s of silence after the audio, where only video is"


def test_sound_that_ends_before_its_pictures_is_filled_up(tmp_path):
    path = write_clip(tmp_path / "a.mp4", burst(16_000, seconds=1.0), seconds=3.0)
    sound = read_sound(path, 16_000)
    assert len(sound.waveform) == 48_000
    assert np.abs(sound.waveform[17_000:]).max() == 0
    assert sound.facts["seconds"] == pytest.approx(1.0, abs=0.001)


def test_sound_of_the_length_of_its_pictures_is_left_as_it_is(tmp_path):
    sound = read_sound(write_clip(tmp_path / "a.mp4", burst(16_000)), 16_000)
    assert len(sound.waveform) == 32_000
    assert sound.note is None


def test_the_stated_length_of_a_sound(tmp_path):
    assert sound_seconds(write_wav(tmp_path / "a.wav", np.zeros(4000))) == 0.25
    assert sound_seconds(tmp_path / "missing.wav") is None


def test_a_wav_that_was_cut_off_is_refused(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 1.0))
    path.write_bytes(path.read_bytes()[:20_000])
    with pytest.raises(ClipError, match="cut off: 20000 of 32044 bytes"):
        read_audio(path, 16_000)


def test_a_wav_of_unknown_stated_length_is_read(tmp_path):
    path = write_wav(tmp_path / "a.wav", tone(440, 0.1))
    content = bytearray(path.read_bytes())
    content[4:8] = content[40:44] = b"\xff\xff\xff\xff"
    path.write_bytes(content)
    assert len(read_audio(path, 16_000)) == 1600


def test_an_m4a_whose_sound_is_shorter_than_it_states_is_refused(tmp_path):
    path = write_sound(tmp_path / "a.m4a", tone(440, 4.0, amplitude=0.5), 16_000)
    content = bytearray(path.read_bytes())
    start = content.index(b"mdat") + 4
    end = content.index(b"moov") - 4
    content[(start + end) // 2 : end] = bytes(end - (start + end) // 2)
    path.write_bytes(content)
    with pytest.raises(ClipError, match=r"cut off|cannot be decoded"):
        read_audio(path, 16_000)


@pytest.mark.parametrize(
    ("content", "problem"), [(None, "zero samples"), (b"", "the file is empty"), (b"RIFFxxxx", "not a readable")]
)
def test_a_wav_without_sound_is_refused(tmp_path, content, problem):
    path = tmp_path / "a.wav"
    if content is None:
        write_wav(path, np.zeros(0))
    else:
        path.write_bytes(content)
    with pytest.raises(ClipError, match=problem):
        read_audio(path, 16_000)


@pytest.mark.parametrize("rate_hz", [1, 999, 2_000_000])
def test_a_rate_that_cannot_be_true_is_refused(tmp_path, rate_hz):
    path = write_wav(tmp_path / "a.wav", np.zeros(1000), rate_hz)
    with pytest.raises(ClipError, match=f"a sample rate of {rate_hz} Hz, outside"):
        read_audio(path, 16_000)


def test_sound_that_is_not_finite_is_refused(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.array([0.0, np.nan, 0.1]), 16_000, subtype="FLOAT")
    with pytest.raises(ClipError, match="NaN"):
        read_audio(path, 16_000)


def test_missing_files_long_clips_and_clips_without_sound_are_refused(tmp_path):
    with pytest.raises(ClipError, match="does not exist"):
        read_audio(tmp_path / "a.wav", 16_000)
    with pytest.raises(ClipError, match="not a regular file"):
        read_audio(tmp_path, 16_000)
    with pytest.raises(ClipError, match="no audio stream"):
        read_audio(write_mp4(tmp_path / "pictures.mp4", moving_square(3)), 16_000)
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        read_audio(write_wav(tmp_path / "b.wav", np.zeros(3200)), 16_000, longest_s=0.1)
    with pytest.raises(ClipError, match=r"longer than 0\.1 s"):
        read_audio(write_sound_only_mp4(tmp_path / "c.mp4", np.zeros(8000)), 16_000, longest_s=0.1)
    # The sound itself would fit, its place on the time line does not.
    late = write_clip(tmp_path / "d.mp4", burst(16_000, 0.2, 0.5), sound_at_s=3, seconds=0.2)
    with pytest.raises(ClipError, match="longer than 2 s"):
        read_audio(late, 16_000, longest_s=2)
