"""What a clip expresses, before any sound or picture: the latents that voice and face share or hide.

A clip is a blend of the six emotions: one weight per emotion, near 1 for its own and near 0 for the
others. Voice and face see the same blend through their own noise, now and then one of them shows another
emotion altogether, and each hides two contrasts:

    the voice hides   happy - angry        and   neutral - sad
    the face hides    fearful - surprised  and   sad - angry

No contrast is hidden from both, so the two together know what neither knows alone.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray

from demo_corpus.settings import EMOTIONS, DemoCorpusSettings

Array = NDArray[np.float64]

HIDDEN_FROM_VOICE = (("happy", "angry"), ("neutral", "sad"))
HIDDEN_FROM_FACE = (("fearful", "surprised"), ("sad", "angry"))
_AROUSAL = np.array([-0.4, 0.7, -1.0, 0.8, 0.6, 0.5])
_LEAD_S, _TAIL_S = 0.18, 0.24
_SHORTEST_S, _LONGEST_S = 1.0, 3.0


@dataclass(frozen=True)
class Clip:
    """One clip of the corpus by its names."""

    speaker: str
    sentence: str
    emotion: str
    take: int

    @property
    def clip_id(self) -> str:
        """The name of the clip's files, e.g. ``f01_s02_happy_t1``."""
        return f"{self.speaker}_{self.sentence}_{self.emotion}_t{self.take}"


@dataclass(frozen=True)
class Syllable:
    """One syllable: when it sounds, what it is made of."""

    start_s: float  # onset in seconds from the start of the clip
    length_s: float  # duration in seconds
    stress: float  # loudness and pitch accent, about 0.6 to 1.3
    vowel: int  # index into the voice's vowels
    consonant: int  # index into the voice's consonants, heard at the onset


@dataclass(frozen=True)
class ClipLatent:
    """Everything about a clip that both modalities share, and what each of them sees of the emotion."""

    clip: Clip
    shared: Array  # (6,) weight of each emotion, in the order of `EMOTIONS`
    voice: Array  # (6,) the blend as the voice expresses it
    face: Array  # (6,) the blend as the face expresses it
    tempo: float  # speed of speech relative to the sentence's own
    seconds: float
    peak: float  # when the expression peaks, as a share of the clip
    syllables: tuple[Syllable, ...]  # the rhythm that the voice speaks and the mouth follows


def generator(seed: int, *names: str) -> np.random.Generator:
    """Return a generator that depends on ``seed`` and ``names`` only, e.g. a clip id and a purpose."""
    digest = hashlib.sha256("/".join(names).encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:8], "big")])


def speakers_of(settings: DemoCorpusSettings) -> tuple[str, ...]:
    """Return the names of all speakers, women first."""
    women = [f"f{number:02d}" for number in range(1, settings.women + 1)]
    return (*women, *(f"m{number:02d}" for number in range(1, settings.men + 1)))


def clips_of(settings: DemoCorpusSettings) -> list[Clip]:
    """Return all clips of the corpus, by speaker, sentence, emotion and take."""
    sentences = [f"s{number:02d}" for number in range(1, settings.sentences + 1)]
    takes = range(1, settings.takes + 1)
    return [Clip(*names) for names in product(speakers_of(settings), sentences, EMOTIONS, takes)]


def clip_latent(settings: DemoCorpusSettings, clip: Clip) -> ClipLatent:
    """Draw a clip's latents; they depend on the seed, the difficulty and the clip's names alone."""
    difficulty = settings.difficulty
    rng = generator(settings.seed, clip.clip_id, "latent")
    deviation = difficulty.shared_noise * rng.standard_normal(len(EMOTIONS))
    shared = _pure(clip.emotion) + deviation
    voice_scale, face_scale = _expressiveness(settings, clip.speaker)
    voice = _pure(_shown(rng, clip.emotion, difficulty.strays)) + deviation
    voice = voice_scale * hide(voice, HIDDEN_FROM_VOICE, difficulty.hidden_contrast)
    voice += difficulty.voice_noise * rng.standard_normal(len(EMOTIONS))
    face = _pure(_shown(rng, clip.emotion, difficulty.strays)) + deviation
    face = face_scale * hide(face, HIDDEN_FROM_FACE, difficulty.hidden_contrast)
    face += difficulty.face_noise * rng.standard_normal(len(EMOTIONS))
    own_tempo = generator(settings.seed, clip.speaker, "tempo").normal(0, 0.08)
    arousal = float(_AROUSAL @ shared)
    tempo = float(np.exp(difficulty.tempo_per_arousal * arousal + own_tempo + rng.normal(0, 0.07)))
    syllables, seconds = _rhythm(settings.seed, clip.sentence, tempo)
    return ClipLatent(clip, shared, voice, face, tempo, seconds, float(rng.uniform(0.3, 0.6)), syllables)


def hide(blend: Array, pairs: Sequence[tuple[str, str]], survives: float) -> Array:
    """Return (6,) ``blend`` with the difference of each pair of emotions reduced to the share ``survives``."""
    projection = np.eye(len(EMOTIONS))
    for names in pairs:
        difference = np.zeros(len(EMOTIONS))
        difference[[EMOTIONS.index(name) for name in names]] = np.sqrt(0.5), -np.sqrt(0.5)
        projection -= (1 - survives) * np.outer(difference, difference)
    return projection @ blend


def trajectory(latent: ClipLatent, blend: Array, times_s: Array) -> Array:
    """Let a blend unfold over a clip; each emotion has its own course around the shared peak.

    Args:
        latent: gives the length and the peak, which both modalities share.
        blend: (6,) ``latent.voice`` or ``latent.face``; no other knowledge of the emotion enters.
        times_s: (frames,) seconds.

    Returns:
        (frames, 6) weight of each emotion over time.
    """
    place = np.clip(times_s / latent.seconds, 0, 1)
    rise = _smooth_step(place / latent.peak)
    late = np.clip((place - latent.peak) / (1 - latent.peak), 0, 1)
    beat = np.cos(2 * np.pi * 2.2 * (times_s - latent.peak * latent.seconds))
    courses = [
        np.ones_like(place),  # neutral stays
        rise * (1 - 0.15 * late),  # happy rises and stays
        0.45 + 0.65 * place,  # sad grows slowly
        rise * (0.9 + 0.2 * beat),  # angry comes in beats
        _smooth_step(1.8 * place / latent.peak) * (1 - 0.25 * late),  # fearful is there early
        _smooth_step(1.5 * place / latent.peak) * (1.15 - 0.6 * late),  # surprised bursts and fades
    ]
    return np.stack(courses, axis=1) * blend


def wander(rng: np.random.Generator, times_s: Array, step_s: float) -> Array:
    """Return (frames,) smooth noise of unit variance that changes over about ``step_s`` seconds."""
    knots = np.arange(-1, int(times_s[-1] / step_s) + 4)
    return np.interp(times_s / step_s, knots, rng.standard_normal(len(knots))) * 1.2


def _pure(emotion: str) -> Array:
    return np.array([1.0 if name == emotion else 0.0 for name in EMOTIONS])


def _shown(rng: np.random.Generator, emotion: str, strays: float) -> str:
    """Return the emotion itself, or in a share ``strays`` of all clips some other one."""
    place, other = EMOTIONS.index(emotion), int(rng.integers(1, len(EMOTIONS)))
    return EMOTIONS[(place + other) % len(EMOTIONS)] if rng.random() < strays else emotion


def _expressiveness(settings: DemoCorpusSettings, speaker: str) -> Array:
    rng = generator(settings.seed, speaker, "expressiveness")
    return np.exp(settings.difficulty.expressiveness_sd * rng.standard_normal(2))


def _rhythm(seed: int, sentence: str, tempo: float) -> tuple[tuple[Syllable, ...], float]:
    """Lay out a sentence's syllables at the given tempo; return them and the length of the clip."""
    rng = generator(seed, sentence, "rhythm")
    count = int(rng.integers(6, 9))
    stress = rng.permutation(np.linspace(0.6, 1.3, count))
    lengths = (0.15 + 0.09 * stress + rng.uniform(-0.02, 0.03, count)) / tempo
    scale = min(1.0, (_LONGEST_S - _LEAD_S - _TAIL_S) / lengths.sum())
    lengths *= scale
    starts = _LEAD_S + np.concatenate([[0.0], np.cumsum(lengths)[:-1]])
    parts = zip(
        starts.tolist(),
        lengths.tolist(),
        stress.tolist(),
        rng.integers(0, 5, count).tolist(),
        rng.integers(0, 4, count).tolist(),
        strict=True,
    )
    return tuple(Syllable(*part) for part in parts), max(_SHORTEST_S, _LEAD_S + float(lengths.sum()) + _TAIL_S)


def _smooth_step(x: Array) -> Array:
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)
