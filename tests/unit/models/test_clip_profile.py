"""How clips compare with those of the training run: lengths, and features far off."""

from __future__ import annotations

import numpy as np
import pytest

from vavl.models.clips import TrainingProfile, clip_distance, compare_clip


def clips(count: int, shift: float = 0.0, seed: int = 0) -> list[np.ndarray]:
    """Normalized clips of 20 frames and 6 channels, each with an own mean."""
    generator = np.random.default_rng(seed)
    return [
        (generator.normal(size=(20, 6)) + 0.5 * generator.normal(size=6) + shift).astype(np.float32)
        for _ in range(count)
    ]


PROFILE = TrainingProfile.of(10.0, np.array([20, 35, 50], np.int32), [clip_distance(one) for one in clips(500)])


def test_a_distance_is_that_of_the_mean_whatever_the_length():
    assert clip_distance(np.full((7, 3), 2, np.float32)) == pytest.approx(4)
    assert clip_distance(np.tile(np.array([[3.0], [-3.0]], np.float32), (50, 4))) == pytest.approx(0)


def test_few_clips_like_those_of_training_are_far_and_all_shifted_ones_are():
    alike = [compare_clip({"audio": PROFILE}, {"audio": 20}, {"audio": one})[0] for one in clips(500, seed=1)]
    assert 0 < np.mean([one > 1 for one in alike]) < 0.03
    for one in clips(50, shift=2.0, seed=2):
        distance, warning = compare_clip({"audio": PROFILE}, {"audio": 20}, {"audio": one})
        assert distance > 1
        assert warning == f"audio: features far from those of the training clips ({distance:.1f} x)"


def test_the_farther_modality_counts_and_one_without_a_profile_does_not():
    near, far = clips(1)[0], clips(1, shift=3.0)[0]
    frames = {"audio": 20, "video": 20}
    both, warning = compare_clip(dict.fromkeys(frames, PROFILE), frames, {"audio": near, "video": far})
    alone, _ = compare_clip({"video": PROFILE}, frames, {"audio": near, "video": far})
    assert both == alone > 1
    assert warning.startswith("video: ")
    assert compare_clip({"audio": None}, frames, {"audio": far}) == (None, "")


@pytest.mark.parametrize(
    ("frames", "rate", "problem"),
    [
        (20, 10.0, ""),
        (50, 10.0, ""),
        (19, 10.0, "shorter than every training clip (1.90 s, in training 2.00 s to 5.00 s)"),
        (51, 10.0, "longer than every training clip (5.10 s, in training 2.00 s to 5.00 s)"),
        (51, None, "longer than every training clip (51 frames, in training 20 frames to 50 frames)"),
    ],
)
def test_lengths_outside_those_of_training_are_told(frames, rate, problem):
    profile = TrainingProfile.of(rate, np.array([20, 50], np.int32), [])
    assert profile.far is None
    assert profile.length_problem(frames) == problem
    found = compare_clip({"audio": profile}, {"audio": frames}, {"audio": clips(1)[0]})
    assert found == (None, f"audio: {problem}" if problem else "")
