"""The sound of a clip: decoded, mixed to one channel, resampled, with its facts; a silent one is none."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from rendered_media import (
    moving_square,
    tone,
    write_clip,
    write_media,
    write_mp4,
    write_sound_only_mp4,
    write_wav,
)

from vavl.errors import ClipError, NoSignalError
from vavl.media.media import Pictures
from vavl.media.media_probe import sound_seconds
from vavl.media.sound import clipped_share, level_facts, mix, read_audio, read_sound
from vavl.store.clip_facts import SCHEMA

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
    path = write_media(tmp_path / f"a{suffix}", sound=burst(rate_hz), audio=codec, sound_rate_hz=rate_hz)
    found = read_audio(path, 16_000)
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
    path = write_media(tmp_path / "a.m4a", sound=tone(440, 4.0, amplitude=0.5))
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


FULL_SCALE = 32767 / 32768


def facts_of(samples: np.ndarray, rate_hz: int = 16_000) -> dict[str, float]:
    mono = samples.astype(np.float32)
    return {**level_facts(mono, rate_hz), "clipped_share": clipped_share(mono[:, None], FULL_SCALE)}


def test_levels_are_those_of_what_is_heard_after_mixing_and_resampling(tmp_path):
    samples = np.stack([tone(440, 0.5, 44_100, 0.8), np.zeros(22_050)], axis=1)
    facts = read_sound(write_wav(tmp_path / "a.wav", samples, 44_100), 16_000).facts
    assert facts.keys() <= set(SCHEMA.names)
    assert (facts["seconds"], facts["sample_rate_hz"], facts["channels"]) == (0.5, 44_100, 2)
    assert facts["peak"] == pytest.approx(0.4, abs=0.02)
    assert facts["silence_share"] == facts["clipped_share"] == 0


@pytest.mark.parametrize(("below_db", "share"), [(40, 0.0), (59, 0.0), (61, 1.0), (200, 1.0)])
def test_silence_is_60_db_below_a_full_scale_sine(below_db, share):
    assert facts_of(tone(440, 1, amplitude=10 ** (-below_db / 20)))["silence_share"] == share


def test_silence_is_a_share_of_the_time(tmp_path):
    half = np.concatenate([tone(440, 0.5), np.zeros(8000)])
    assert facts_of(half)["silence_share"] == pytest.approx(0.5, abs=0.02)
    both = np.stack([half, half[::-1]], axis=1)
    assert read_sound(write_wav(tmp_path / "a.wav", both), 16_000).facts["silence_share"] == 0


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "FLOAT"])
def test_samples_at_full_scale_count_as_clipped(tmp_path, subtype):
    path = tmp_path / "a.wav"
    samples = np.clip(tone(440, 1, amplitude=2.0), -1, 1)
    soundfile.write(path, samples, 16_000, subtype=subtype)
    # A sine of twice full scale is beyond it two thirds of the time.
    assert read_sound(path, 16_000).facts["clipped_share"] == pytest.approx(2 / 3, abs=0.01)


def test_sound_beyond_full_scale_keeps_its_peak(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, np.full(100, 1.5), 16_000, subtype="FLOAT")
    facts = read_sound(path, 16_000).facts
    assert (facts["peak"], facts["clipped_share"]) == (1.5, 1.0)


def test_one_sample_has_facts():
    assert facts_of(np.zeros(1))["silence_share"] == 1


VOICE = tone(300, 0.5, amplitude=0.4).astype(np.float32)
SILENCE = np.zeros_like(VOICE)
OTHER = tone(1700, 0.5, amplitude=0.4).astype(np.float32)
FIVE_ONE = ("FL", "FR", "FC", "LFE", "BL", "BR")


def power(samples):
    return float((samples**2).mean())


@pytest.mark.parametrize("right", [VOICE, SILENCE, OTHER, 0.2 * VOICE - OTHER], ids=["same", "silent", "other", "both"])
def test_plain_stereo_is_the_mean_without_a_word(right):
    mixed = mix(np.stack([VOICE, right], axis=1))
    assert mixed.note is None
    np.testing.assert_allclose(mixed.samples, (VOICE + right) / 2, atol=1e-6)


@pytest.mark.parametrize("gain", [-1.0, -0.6, -1.7])
def test_an_inverted_channel_gives_way_to_the_louder_one_with_a_note(gain):
    mixed = mix(np.stack([VOICE, gain * VOICE + 0.01 * OTHER], axis=1).astype(np.float32))
    louder = VOICE if abs(gain) <= 1 else gain * VOICE
    assert power(mixed.samples) == pytest.approx(power(louder), rel=0.01)
    assert "cancel each other out" in mixed.note


def test_a_voice_in_the_centre_of_surround_sound_keeps_its_level():
    channels = np.stack([SILENCE, SILENCE, VOICE, OTHER, SILENCE, SILENCE], axis=1)
    mixed = mix(channels, FIVE_ONE)
    assert 10 * np.log10(power(mixed.samples) / power(VOICE)) == pytest.approx(-3, abs=0.1)  # effects are left out
    assert "6 channels" in mixed.note
    assert 3 not in mixed.taken
    unnamed = mix(channels)
    np.testing.assert_array_equal(unnamed.samples, mixed.samples)
    assert "taken as FL FR FC" in unnamed.note
    three = mix(channels[:, 1:4])
    assert power(three.samples) == pytest.approx(power(VOICE) * 2 / 9, rel=0.05)
    assert "equal weights" in three.note


def test_the_facts_are_of_the_channel_that_was_taken(tmp_path):
    path = write_wav(tmp_path / "a.wav", np.stack([VOICE, -VOICE], axis=1))
    sound = read_sound(path, 16_000)
    assert sound.facts["peak"] == pytest.approx(0.4, abs=0.01)
    assert sound.facts["silence_share"] == 0
    assert "cancel" in sound.note


RATE = 16_000


@pytest.mark.parametrize("level", [0.0, 1 / 32768, 5e-5])
def test_digital_silence_and_its_noise_are_no_sound(tmp_path: Path, level: float):
    noise = level * np.sign(np.random.default_rng(0).normal(size=RATE))
    with pytest.raises(NoSignalError, match="silence from start to end"):
        read_sound(write_wav(tmp_path / "a.wav", noise), RATE)


def test_a_silent_track_of_a_film_is_no_sound_while_its_pictures_are_read(tmp_path: Path):
    path = write_clip(tmp_path / "a.mp4", np.zeros(2 * RATE))
    with pytest.raises(NoSignalError):
        read_sound(path, RATE)
    assert len(list(Pictures(path, 25))) == 50


@pytest.mark.parametrize("level", [2e-4, 1.0])
def test_a_quiet_sound_is_one(tmp_path: Path, level: float):
    sound = read_sound(write_wav(tmp_path / "a.wav", level * tone(300, 0.5)), RATE)
    assert sound.waveform.max() > level / 2


def film(tmp_path: Path, pictures: np.ndarray) -> Pictures:
    return Pictures(write_mp4(tmp_path / "a.mp4", pictures.astype(np.uint8)), 25)


@pytest.mark.parametrize("level", [0, 16])
def test_black_is_no_video(tmp_path: Path, level: int):
    noise = np.random.default_rng(0).integers(0, 4, (25, 64, 64, 3))
    with pytest.raises(NoSignalError, match="black from start to end"):
        list(film(tmp_path, level + noise))


def test_a_still_picture_all_the_time_is_no_video(tmp_path: Path):
    with pytest.raises(NoSignalError, match="one still image"):
        list(film(tmp_path, np.repeat(moving_square(1, side=64), 25, axis=0)))


def test_a_small_movement_and_a_dark_film_are_video(tmp_path: Path):
    still = np.repeat(moving_square(1, side=64), 25, axis=0)
    still[12:, 30:34, 30:34] = 255 - still[12:, 30:34, 30:34]
    assert len(list(film(tmp_path, still))) == 25
    assert len(list(film(tmp_path, moving_square(25, side=64) // 4))) == 25


def test_a_picture_shown_for_a_moment_is_read(tmp_path: Path):
    assert len(list(film(tmp_path, np.repeat(moving_square(1, side=64), 5, axis=0)))) == 5
