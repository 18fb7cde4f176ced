"""How a face moves through a clip: expression from the blend, lips from the syllables, the rest its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from demo_corpus.face import Pose
from demo_corpus.latent import Array, ClipLatent, Syllable, generator, trajectory, wander
from demo_corpus.settings import DemoCorpusSettings

# One row per emotion in the order of EMOTIONS, one column per feature of the face.
_FEATURES = (
    "smile", "open", "stretch", "raise", "slant", "eye",
    "squint", "droop", "lean", "tilt", "bounce", "shake", "tremble",
)  # fmt: skip
_EXPRESSIONS = np.array([
    [0.05, -.05, -.40, 0.05, 0.00, -.10, 0.25, -.50, 0.10, 0.0, 0.0, 0.0, 0.0],
    [1.15, 0.20, 0.25, 0.20, -.15, -.05, 0.70, -.30, 0.20, 0.6, 1.0, 0.0, 0.0],
    [-1.0, -.05, -.15, -.15, -.75, -.50, 0.00, 1.00, -.40, 0.7, 0.0, 0.3, 0.0],
    [-.85, 0.12, 0.10, -.65, 1.20, -.20, 0.60, 0.40, 0.60, 0.0, 0.3, 1.0, 0.2],
    [-.40, 0.30, 0.40, 0.80, -.90, 0.85, -.10, -.10, -.50, 0.1, 0.0, 0.1, 1.1],
    [0.10, 0.70, -.35, 1.10, 0.10, 1.00, -.20, -.40, -.30, 0.0, 0.3, 0.0, 0.2],
])  # fmt: skip
_VOWEL_STRETCH = (0.10, 0.18, 0.26, -0.18, -0.28)  # a e i o u
_VOWEL_OPEN = (1.0, 0.72, 0.5, 0.8, 0.45)


@dataclass(frozen=True)
class HeadPlace:
    """Where the head is in the picture: shift in canvas pixels, scale, tilt in degrees."""

    shift: tuple[float, float]
    scale: float
    tilt_degrees: float


def face_motion(settings: DemoCorpusSettings, latent: ClipLatent) -> list[tuple[Pose, HeadPlace]]:
    """Return the pose and the head's place of every frame of a clip."""
    rng = generator(settings.seed, latent.clip.clip_id, "face")
    frames = round(latent.seconds * settings.frame_rate_hz)
    times = (np.arange(frames) + 0.5) / settings.frame_rate_hz
    weights = trajectory(latent, latent.face, times)
    features = dict(zip(_FEATURES, (weights @ _EXPRESSIONS).T, strict=True))
    for name in ("smile", "raise", "slant", "eye"):
        features[name] = features[name] + 0.07 * wander(rng, times, 0.3)
    lips = _lips(latent.syllables, times)
    blinks = _blinks(rng, times)
    gaze = np.stack([2.2 * wander(rng, times, 0.5), 1.0 * wander(rng, times, 0.6)], axis=1)
    places, turns = _head_motion(rng, times, features)
    talk = float(rng.uniform(0.28, 0.42))
    poses = [
        Pose(
            smile=float(np.clip(features["smile"][i], -1.5, 1.5)),
            mouth_open=float(np.clip(features["open"][i] + talk * lips[i, 0], 0, 1.1)),
            mouth_stretch=float(np.clip(features["stretch"][i] + lips[i, 1], -0.6, 0.7)),
            brow_raise=float(np.clip(features["raise"][i], -1.0, 1.5)),
            brow_slant=float(np.clip(features["slant"][i], -1.3, 1.4)),
            eye_open=float(np.clip(features["eye"][i], -0.9, 1.2)),
            squint=float(np.clip(features["squint"][i], 0, 1)),
            blink=float(blinks[i]),
            gaze=(float(gaze[i, 0]), float(gaze[i, 1])),
            turn=(float(turns[i, 0]), float(turns[i, 1])),
        )
        for i in range(frames)
    ]
    return list(zip(poses, places, strict=True))


def _lips(syllables: tuple[Syllable, ...], times: Array) -> Array:
    """Return (frames, 2): how far the lips part (0 to about 1.2) and stretch for the syllables."""
    lips = np.zeros((len(times), 2))
    for syllable in syllables:
        place = (times - syllable.start_s) / syllable.length_s
        part = np.sin(np.pi * np.clip(place, 0, 1)) ** 1.2
        lips[:, 0] += part * syllable.stress * _VOWEL_OPEN[syllable.vowel]
        lips[:, 1] += part * _VOWEL_STRETCH[syllable.vowel]
    return lips


def _blinks(rng: np.random.Generator, times: Array) -> Array:
    shut = np.zeros(len(times))
    at = rng.uniform(0.2, 2.5)
    while at < times[-1]:
        shut = np.maximum(shut, np.exp(-(((times - at) / 0.055) ** 2)))
        at += rng.uniform(0.9, 3.0)
    return np.where(shut < 0.1, 0.0, shut)


def _head_motion(rng: np.random.Generator, times: Array, features: dict[str, Array]) -> tuple[list[HeadPlace], Array]:
    """Combine the movements that belong to the emotion with the speaker's own."""
    start = rng.uniform(0, 2 * np.pi, 3)
    bounce = features["bounce"] * np.sin(2 * np.pi * 2.0 * times + start[0])
    shake = features["shake"] * np.sin(2 * np.pi * 1.6 * times + start[1])
    tremble = features["tremble"] * np.sin(2 * np.pi * 7.5 * times + start[2])
    middle = rng.normal(0, 3, 2)
    x = middle[0] + 2.5 * wander(rng, times, 0.8) + 2.0 * shake + 1.6 * tremble
    y = middle[1] + 1.5 * wander(rng, times, 0.7) + 5.0 * features["droop"] + 3.5 * bounce
    scale = 1 + 0.03 * features["lean"] + rng.normal(0, 0.02) + 0.006 * wander(rng, times, 0.9)
    tilt = (
        rng.normal(0, 0.8) + 0.9 * wander(rng, times, 0.8) + 2.5 * features["tilt"] * np.sin(np.pi * times + start[1])
    )
    turn = np.stack(
        [1.8 * wander(rng, times, 0.7) + 3.5 * shake, 0.8 * wander(rng, times, 0.7) + 3.0 * features["droop"] + bounce],
        axis=1,
    )
    places = [HeadPlace((float(a), float(b)), float(c), float(d)) for a, b, c, d in zip(x, y, scale, tilt, strict=True)]
    return places, turn
