"""Noisy views of training clips."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.config.load import validate
from vavl.data.augmentation import AugmentationSettings, ViewMaker, ViewSettings, changed
from vavl.errors import ConfigError

VALUES = np.random.default_rng(0).normal(size=(40, 10)).astype(np.float32)
KNOBS = {"frame_masks": 2, "channel_masks": 2, "noise": 0.5, "tempo": 0.3}


def view(seed: int = 0, values: np.ndarray = VALUES, **settings) -> np.ndarray:
    return changed(values, ViewSettings(**settings), np.random.default_rng(seed))


def maker(seed: int = 1, step: int = 2, places: tuple[int, ...] = (5, 6), **settings) -> ViewMaker:
    both = AugmentationSettings(audio=ViewSettings(**settings), video=ViewSettings(**settings))
    return ViewMaker(both, seed, step, np.array(places))


@pytest.mark.parametrize("knob", KNOBS)
def test_every_knob_changes_something_and_keeps_the_clip(knob):
    before = VALUES.copy()
    after = view(**{knob: KNOBS[knob]})
    assert after.dtype == np.float32
    assert after.shape[1] == 10
    assert after.shape != VALUES.shape or not np.array_equal(after, VALUES)
    assert np.array_equal(VALUES, before)
    assert ViewSettings(**{knob: KNOBS[knob]}).changes_something


def test_settings_of_an_earlier_version_are_refused_unless_they_changed_nothing():
    assert validate(ViewSettings, {"channel_shift": 0, "level": 0.0, "noise": 0.5}, "run").noise == 0.5
    with pytest.raises(ConfigError, match="channel_shift is gone; noise, tempo and masks"):
        validate(ViewSettings, {"channel_shift": 1}, "run")


def test_without_a_setting_the_clip_comes_as_it_is():
    assert not ViewSettings().changes_something
    assert maker().view("audio", 0, VALUES) is VALUES


def test_read_only_features_can_be_viewed():
    # Features are mapped from the store and cannot be written.
    locked = VALUES.copy()
    locked.flags.writeable = False
    for knob, value in KNOBS.items():
        np.testing.assert_array_equal(view(values=locked, **{knob: value}), view(**{knob: value}))


def test_masked_frames_and_channels_are_the_mean_of_the_training_speakers():
    frames = view(frame_masks=1, frame_mask_share=0.5, seed=3)
    masked = (frames == 0).all(axis=1)
    assert 0 < masked.sum() <= 20
    assert np.diff(np.flatnonzero(masked)).max(initial=1) == 1
    assert np.array_equal(frames[~masked], VALUES[~masked])
    channels = view(channel_masks=1, channel_mask_share=0.5, seed=3)
    masked = (channels == 0).all(axis=0)
    assert 0 < masked.sum() <= 5
    assert np.array_equal(channels[:, ~masked], VALUES[:, ~masked])


def test_noise_has_the_deviation_asked_for():
    long = np.zeros((2000, 10), np.float32)
    assert view(values=long, noise=0.3).std() == pytest.approx(0.3, rel=0.05)


def test_tempo_changes_the_number_of_frames_within_its_share():
    lengths = [len(view(seed=seed, tempo=0.25)) for seed in range(100)]
    assert min(lengths) >= 30
    assert max(lengths) <= 50
    assert len(set(lengths)) > 10


def test_a_stretched_straight_line_stays_one_with_the_same_ends():
    line = np.linspace(0, 1, 40, dtype=np.float32)[:, None]
    stretched = view(values=line, tempo=0.4)
    np.testing.assert_allclose(stretched[:, 0], np.linspace(0, 1, len(stretched)), atol=1e-6)


@pytest.mark.parametrize("frames", [1, 2, 3])
def test_very_short_clips_stay_usable(frames):
    for seed in range(20):
        assert np.isfinite(view(seed=seed, values=VALUES[:frames], **KNOBS)).all()
        assert len(view(seed=seed, values=VALUES[:frames], **KNOBS)) >= 1


def test_draws_depend_on_seed_step_place_and_modality_and_nothing_else():
    plain = maker(noise=1.0).view("audio", 0, VALUES)
    assert np.array_equal(plain, maker(places=(9, 5), noise=1.0).view("audio", 1, VALUES))
    others = [
        maker(seed=2, noise=1.0).view("audio", 0, VALUES),
        maker(step=3, noise=1.0).view("audio", 0, VALUES),
        maker(noise=1.0).view("audio", 1, VALUES),
        maker(noise=1.0).view("video", 0, VALUES),
    ]
    assert not any(np.array_equal(plain, other) for other in others)


def sides_shown(chance: float, places: range = range(4000), step: int = 2) -> dict[str, np.ndarray]:
    both = {name: np.ones(len(places), np.bool_) for name in ("audio", "video")}
    return ViewMaker(AugmentationSettings(modality_dropout=chance), 1, step, np.array(places)).shown(both)


def test_modality_dropout_shows_one_side_as_often_as_asked():
    shown = sides_shown(0.3)
    assert (shown["audio"] | shown["video"]).all()
    for name in ("audio", "video"):
        assert (~shown[name]).mean() == pytest.approx(0.15, abs=0.025)
    for chance, pairs in ((0, 4000), (1, 0)):
        shown = sides_shown(chance)
        assert (shown["audio"] & shown["video"]).sum() == pairs


def test_modality_dropout_follows_the_place_and_the_step_alone():
    whole, part = sides_shown(0.5, range(40)), sides_shown(0.5, range(10, 20))
    assert np.array_equal(whole["audio"][10:20], part["audio"])
    assert not np.array_equal(whole["audio"], sides_shown(0.5, range(40), step=3)["audio"])


def test_modality_dropout_leaves_unpaired_clips_and_fillers_alone():
    has = {"audio": np.array([True, False, False]), "video": np.array([False, True, False])}
    shown = ViewMaker(AugmentationSettings(modality_dropout=1), 0, 0, np.arange(3)).shown(has)
    assert all(np.array_equal(shown[name], has[name]) for name in has)


def test_weak_and_strong_views_are_drawn_apart():
    settings = AugmentationSettings(audio=ViewSettings(noise=1), video=ViewSettings(noise=1))
    views = [
        ViewMaker(settings, 1, 2, np.array([5]), is_weak).view(name, 0, VALUES)
        for is_weak in (False, True)
        for name in ("audio", "video")
    ]
    assert len({view.tobytes() for view in views}) == 4


MEANS = {code: np.full(10, 10.0 * code, np.float32) for code in (1, 2, 4)}


def exchanging(chance: float = 1.0, places: range = range(400), step: int = 2, *, is_weak: bool = False):
    return ViewMaker(AugmentationSettings(speaker_exchange=chance), 1, step, np.array(places), is_weak)


def test_an_exchanged_clip_lies_between_the_means_of_two_training_speakers():
    moved = [exchanging().exchanged(row, VALUES, 1, MEANS) for row in range(400)]
    shifts = np.array([(clip - VALUES).mean() for clip in moved])
    assert min(shifts) >= -1e-4
    assert max(shifts) <= 30 + 1e-4
    # Two draws out of means 10, 20 and 40, at a place between them: as often as each other.
    assert shifts.mean() == pytest.approx(70 / 3 - 10, abs=1.5)
    # What a clip says next to its speaker's mean stays.
    np.testing.assert_allclose(moved[0] - shifts[0], VALUES, atol=1e-4)


def test_both_sides_of_a_pair_move_towards_the_same_speakers():
    other = {code: mean[:3] for code, mean in MEANS.items()}
    for row in range(20):
        audio = exchanging().exchanged(row, VALUES, 1, MEANS) - VALUES
        video = exchanging().exchanged(row, VALUES[:1, :3], 1, other) - VALUES[:1, :3]
        assert video[0, 0] == pytest.approx(audio[0, 0], abs=1e-4)


def test_clips_are_exchanged_as_often_as_asked():
    for chance in (0.0, 0.3, 1.0):
        maker_ = exchanging(chance, range(3000))
        stayed = [maker_.exchanged(row, VALUES, 2, MEANS) is VALUES for row in range(3000)]
        assert 1 - np.mean(stayed) == pytest.approx(chance, abs=0.03)


def test_a_clip_of_no_training_speaker_stays():
    assert exchanging().exchanged(0, VALUES, 3, MEANS) is VALUES
    assert exchanging().exchanged(0, VALUES, 1, {}) is VALUES


def test_an_exchange_follows_place_step_and_view_alone():
    def moved(views: ViewMaker, rows: range) -> np.ndarray:
        return np.stack([views.exchanged(row, VALUES, 1, MEANS) for row in rows])

    plain = moved(exchanging(), range(5, 20))
    assert np.array_equal(plain, moved(exchanging(places=range(5, 20)), range(15)))
    for other in (exchanging(step=3), exchanging(is_weak=True)):
        assert not np.array_equal(plain, moved(other, range(5, 20)))
