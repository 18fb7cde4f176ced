"""One clip as sound: glottal pulses and breath through the formants of vowels, in a noisy room."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.signal import lfilter

from demo_corpus.latent import Array, ClipLatent, Syllable, generator, trajectory, wander
from demo_corpus.settings import DemoCorpusSettings

_CONTROL_HZ = 200
# One row per emotion in the order of EMOTIONS. Pitch, accents and final rise in semitones; loudness of voice and
# of consonants in dB; tension from breathy (-) to pressed (+); breath and the shifts of all formants, of the first
# (jaw) and of the second (lips) as logarithms; staccato from drawn out (-) to clipped (+); tremor of the pitch.
_PROSODY = (
    "pitch", "accent", "rise", "loudness", "crisp", "tension",
    "breath", "formants", "jaw", "lips", "staccato", "tremor",
)  # fmt: skip
_STYLES = np.array([
    [-0.5, 0.8, -1.5, -2.5, -1.0, -.25, -0.2, 0.00, -.02, 0.00, -.10, 0.0],
    [4.0, 3.5, -0.5, 6.0, 2.0, 0.70, -0.3, 0.05, 0.10, 0.10, 0.25, 0.0],
    [-2.5, 0.4, -2.5, -7.0, -5.0, -.90, 0.3, -.03, -.14, -.05, -.50, 0.1],
    [2.5, 3.0, -3.0, 8.0, 6.0, 1.20, 0.0, 0.00, 0.18, 0.02, 0.45, 0.2],
    [6.5, 0.8, 0.5, -1.0, 2.0, -.10, 1.4, 0.04, -.08, 0.12, 0.70, 1.0],
    [5.0, 5.0, 7.0, -2.0, -4.0, -.20, -0.4, 0.08, 0.22, -.20, -.60, 0.0],
])  # fmt: skip
# Hz of the first four formants of a e i o u for a vocal tract of size 1; their bandwidths.
_VOWELS = (
    (750, 1250, 2550, 3500), (520, 1850, 2550, 3550), (300, 2250, 2950, 3600),
    (480, 900, 2450, 3350), (330, 780, 2350, 3300),
)  # fmt: skip
_BANDWIDTHS = (80.0, 100.0, 150.0, 220.0)
# Consonants: band of the noise in Hz, its length in seconds and its loudness; the last is a soft onset.
_CONSONANTS = ((4200, 7200, 0.075, 0.55), (2300, 4200, 0.070, 0.6), (1500, 5000, 0.018, 0.9), (300, 900, 0.03, 0.15))


@dataclass(frozen=True)
class _Speaker:
    pitch_hz: float
    tract: float
    tension: float
    breath: float
    accent: float


def render_voice(settings: DemoCorpusSettings, latent: ClipLatent) -> NDArray[np.int16]:
    """Speak a clip.

    Returns:
        (samples,) int16 at ``settings.sample_rate_hz``, one channel.
    """
    rate = settings.sample_rate_hz
    rng = generator(settings.seed, latent.clip.clip_id, "voice")
    speaker = _speaker_of(settings.seed, latent.clip.speaker)
    times = np.arange(round(latent.seconds * _CONTROL_HZ) + 1) / _CONTROL_HZ
    prosody = dict(zip(_PROSODY, (trajectory(latent, latent.voice, times) @ _STYLES).T, strict=True))
    gate, stress = _syllable_gate(latent.syllables, times, prosody["staccato"])
    semitones = _melody(rng, speaker, prosody, stress, times / latent.seconds)
    samples = np.arange(round(latent.seconds * rate)) / rate

    def at_samples(control: Array) -> Array:
        return np.interp(samples, times, control)

    phase = np.cumsum(at_samples(speaker.pitch_hz * 2 ** (semitones / 12))) / rate
    tension = np.clip(prosody["tension"] + speaker.tension, -1.6, 2.0)
    breath = 0.07 * np.exp(np.clip(1.3 * prosody["breath"] + speaker.breath, -2.0, 2.2))
    source = _pulses(phase, at_samples(tension)) + at_samples(breath) * rng.standard_normal(len(samples))
    loudness = 10 ** ((prosody["loudness"] + 1.5 * wander(rng, times, 0.25)) / 20)
    source *= at_samples(gate * loudness * (0.55 + 0.45 * stress))
    formants = speaker.tract * np.exp(np.mean(prosody["formants"])) * np.ones(len(_BANDWIDTHS))
    formants[:2] *= np.exp([np.mean(prosody["jaw"]), np.mean(prosody["lips"])])
    sound = _through_vowels(source, latent.syllables, samples, formants, rate)
    crisp = 10 ** ((prosody["crisp"] + 0.5 * prosody["loudness"]) / 20)
    sound += _consonants(rng, latent.syllables, len(samples), rate) * at_samples(crisp)
    return _recorded(rng, sound, rate)


def _speaker_of(seed: int, name: str) -> _Speaker:
    rng = generator(seed, name, "voice")
    woman = name.startswith("f")
    return _Speaker(
        pitch_hz=float((205 if woman else 115) * np.exp(np.clip(rng.normal(0, 0.09), -0.2, 0.2))),
        tract=float((1.13 if woman else 0.99) * np.exp(rng.normal(0, 0.025))),
        tension=float(rng.normal(0, 0.15)),
        breath=float(rng.normal(0, 0.2)),
        accent=float(rng.uniform(0.6, 1.4)),
    )


def _syllable_gate(syllables: tuple[Syllable, ...], times: Array, staccato: Array) -> tuple[Array, Array]:
    """Return over time: voicing from 0 to 1, and the stress of the syllable that sounds."""
    gate, stress = np.zeros_like(times), np.full_like(times, 0.8)
    for syllable in syllables:
        since, left = times - syllable.start_s, syllable.start_s + syllable.length_s - times
        early_end = syllable.length_s * np.clip(0.18 + 0.3 * staccato, 0.0, 0.6)
        opening = np.clip(np.minimum((since - 0.025) / 0.03, (left - early_end) / 0.05), 0, 1)
        gate = np.maximum(gate, opening**1.5)
        stress = np.where((since >= 0) & (left > 0), syllable.stress, stress)
    return gate, np.convolve(stress, np.full(9, 1 / 9), mode="same")


def _melody(
    rng: np.random.Generator, speaker: _Speaker, prosody: dict[str, Array], stress: Array, place: Array
) -> Array:
    """Return the pitch over time in semitones above the speaker's own."""
    times = np.arange(len(place)) / _CONTROL_HZ
    accents = (1.2 * speaker.accent + np.clip(prosody["accent"], -1.0, None)) * (stress - 0.95) * 2.2
    fall = 2.0 * (0.5 - place) + prosody["rise"] * np.clip(2.5 * place - 1.5, 0, 1)
    tremor = np.clip(prosody["tremor"], 0, None) * 1.1 * np.sin(2 * np.pi * 6.3 * times + rng.uniform(0, 2 * np.pi))
    return prosody["pitch"] + accents + fall + tremor + 0.5 * wander(rng, times, 0.3) + 0.12 * wander(rng, times, 0.02)


def _pulses(phase: Array, tension: Array) -> Array:
    """Return smooth glottal pulses: von Mises bumps, sharper (more high harmonics) with more tension."""
    turn = np.cos(2 * np.pi * phase) - 1
    sharp = np.exp(np.exp(4.6 + 0.75 * tension) * turn)
    return np.asarray(np.exp(7.0 * turn) - 0.35 + (0.55 + 0.35 * np.tanh(tension)) * sharp)


def _through_vowels(source: Array, syllables: tuple[Syllable, ...], samples: Array, shift: Array, rate: int) -> Array:
    """Filter the source with each vowel and fade from one to the next as the syllables go."""
    share = np.zeros((len(_VOWELS), len(samples)))
    for syllable in syllables:
        middle, reach = syllable.start_s + syllable.length_s / 2, syllable.length_s * 0.62
        share[syllable.vowel] += np.clip(1.6 * (1 - np.abs(samples - middle) / reach), 0, 1)
    share /= np.maximum(share.sum(axis=0), 1e-3)
    sound = np.zeros_like(source)
    for vowel in sorted({syllable.vowel for syllable in syllables}):
        voiced = source
        for hertz, bandwidth in zip(_VOWELS[vowel] * shift, _BANDWIDTHS, strict=True):
            voiced = lfilter(*_resonance(min(hertz, 0.47 * rate), bandwidth * 1.2, rate), voiced)
        sound += share[vowel] * voiced
    return sound


def _resonance(hertz: float, bandwidth_hz: float, rate: int) -> tuple[list[float], list[float]]:
    """Return numerator and denominator of a two-pole resonance with gain 1 at 0 Hz."""
    radius = np.exp(-np.pi * bandwidth_hz / rate)
    poles = [1.0, float(-2 * radius * np.cos(2 * np.pi * hertz / rate)), float(radius**2)]
    return [sum(poles)], poles


def _consonants(rng: np.random.Generator, syllables: tuple[Syllable, ...], count: int, rate: int) -> Array:
    """Return the noise that opens each syllable."""
    sound = np.zeros(count)
    for syllable in syllables:
        low, high, length_s, level = _CONSONANTS[syllable.consonant]
        length = round(length_s * rate)
        noise = rng.standard_normal(length) * np.hanning(length)
        start = max(0, round((syllable.start_s + 0.02 - length_s) * rate))
        end = min(count, start + length)
        burst = lfilter(*_resonance((low + high) / 2, high - low, rate), np.diff(noise, prepend=0.0))
        sound[start:end] += level * (burst / np.abs(burst).max())[: end - start]
    return sound


def _recorded(rng: np.random.Generator, sound: Array, rate: int) -> NDArray[np.int16]:
    """Add the room and the microphone: a short echo, gain, background noise, soft limiting."""
    delay = round(rng.uniform(0.011, 0.023) * rate)
    echo = np.concatenate([np.zeros(delay), sound[:-delay]])
    gain = 10 ** (rng.normal(0, 1.0) / 20)
    hiss = rng.standard_normal(len(sound))
    rumble = lfilter([0.05], [1.0, -0.95], rng.standard_normal(len(sound)))
    background = 10 ** (rng.uniform(-65, -62) / 20) * (hiss + 4 * rumble)
    heard = np.tanh(0.085 * gain * (sound + 0.12 * echo) + background)
    return np.asarray(np.round(heard * 32_000), np.int16)
