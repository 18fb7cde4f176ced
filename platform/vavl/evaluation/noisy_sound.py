"""Noise in the sound of clips: the waveform is read from the media, and the model's extractor reads the result."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from vavl.corpora.card import corpus_root, read_card
from vavl.errors import ClipError, ConfigError, InputError
from vavl.evaluation.degradation import draws_of
from vavl.evaluation.measure import MeasuredClips
from vavl.evaluation.settings import MediaSettings
from vavl.extractors.extracted import Extractor
from vavl.extractors.from_provenance import extractor_of
from vavl.media.decoded_sound import decode_sound
from vavl.media.sound import read_sound

_CHECKED_CLIPS = 3
_SAME = 1e-3
_LONGEST_S = 3600.0

Waveform = NDArray[np.float32]


def add_noise(
    waveform: Waveform,
    snr_db: float,
    generator: np.random.Generator,
    kind: Literal["white", "pink"] = "white",
) -> Waveform:
    """Return the sound with noise of the stated signal-to-noise ratio, power over power of the whole clip.

    Args:
        waveform: (sample,); silence stays as it is, for it has no ratio.
        snr_db: 10 log10 of the power of the sound over that of the noise.
        generator: of the noise; the same one gives the same noise at every ratio.
        kind: of the spectrum; pink falls by 3 dB per octave.
    """
    noise = generator.standard_normal(len(waveform))
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        noise = np.fft.irfft(spectrum, n=len(waveform))
    power, own = np.square(waveform, dtype=np.float64).mean(), np.square(noise).mean()
    noisy: Waveform = (waveform + noise * np.sqrt(power / own * 10 ** (-snr_db / 10))).astype(np.float32)
    return noisy


@dataclass
class NoisySound:
    """Features of the sound of clips with noise in it.

    Attributes:
        clips: the clips, with the manifest's paths.
        root: folder of the media.
        extractor: of the model.
        seed: of all noise.
        kind: of the noise.
        failed: why a clip could not be read, by manifest row; its features stay as they are in the store.
    """

    clips: MeasuredClips
    root: Path
    extractor: Extractor
    seed: int
    kind: Literal["white", "pink"]
    failed: dict[int, str] = field(default_factory=dict)

    def features(self, row: int, snr_db: float | None) -> NDArray[np.float32]:
        """Return the features (time, channel) of a clip's sound, with noise unless ``snr_db`` is None.

        Raises:
            ClipError: the sound cannot be read.
        """
        table = self.clips.collection.manifest.table
        path = self.root / str(table["audio_path"][row].as_py())
        if snr_db is None:
            return self.extractor(path).values
        rate_hz = decode_sound(path, _LONGEST_S).rate_hz
        generator = draws_of(self.seed, f"{self.kind} noise", str(table["clip_id"][row].as_py()))
        noisy = add_noise(read_sound(path, rate_hz).waveform, snr_db, generator, self.kind)
        with tempfile.TemporaryDirectory(prefix="vavl-noise-") as folder:
            beside = Path(folder) / "noisy.wav"
            # Floating point: a loud clip with noise goes beyond full scale and must not be clipped.
            soundfile.write(beside, noisy, rate_hz, subtype="FLOAT")
            return self.extractor(beside).values

    def changed(self, row: int, raw: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
        """Return noisy features, or ``raw`` with the reason noted in ``failed``."""
        try:
            return self.features(row, snr_db)
        except ClipError as fault:
            self.failed[row] = str(fault)
            return raw

    def disagreement(self) -> str:
        """Compare some clips, extracted again without noise, with the store; "" if they agree."""
        collection = self.clips.collection
        rows = [int(row) for row in self.clips.rows if collection.has("audio")[row]][:_CHECKED_CLIPS]
        largest = 0.0
        for row in rows:
            stored = collection.store.features("audio", int(collection.store_row["audio"][row]))
            try:
                again = self.features(row, None)
            except ClipError as fault:
                return f"clip {self.clips.collection.manifest.table['clip_id'][row].as_py()} cannot be read: {fault}"
            if again.shape != stored.shape:
                return f"the sound of the media gives {again.shape[0]} frames where the store has {stored.shape[0]}"
            scale = self.clips.normaliser["audio"].common.std
            largest = max(largest, float((np.abs(again - stored) / scale).max()))
        if largest > _SAME:
            return f"features of the media differ from the store's by up to {largest:.2g} deviations"
        return ""


def open_sound(
    clips: MeasuredClips,
    provenance: Mapping[str, Any],
    media: MediaSettings,
    seed: int,
    kind: Literal["white", "pink"],
) -> NoisySound:
    """Find the media and make the model's audio extractor.

    Args:
        clips: to be measured.
        provenance: of the model's audio features.
        media: where the media are.
        seed: of the noise.
        kind: of the noise.

    Raises:
        InputError: only features are at hand: no media are named, the folder is not there, the store has no
            paths, or the features come from a table.
        ConfigError: the card is of another corpus, or the extractor lacks a package or file.
    """
    root = _root(clips, media)
    manifest = clips.collection.manifest
    column = "audio_path"
    if column not in manifest.table.column_names or manifest.table[column].null_count == len(manifest):
        raise InputError(
            str(clips.selection.store), column, "the store names no sound files", "measure without noise_db"
        )
    return NoisySound(clips, root, extractor_of(provenance, "audio"), seed, kind)


def _root(clips: MeasuredClips, media: MediaSettings) -> Path:
    manifest = clips.collection.manifest
    if media.card is None:
        if media.root is None:
            raise InputError(
                "media", "card, root", "no media are named: only features are at hand",
                "set media.card to the card of the corpus, or media.root to its folder",
            )  # fmt: skip
        if not media.root.is_dir():
            raise InputError(str(media.root), "media.root", "there is no such folder", "correct media.root")
        return media.root
    card = read_card(media.card)
    if card.name != manifest.corpus:
        raise ConfigError(
            str(media.card), "name", f"is the card of {card.name}, the store holds {manifest.corpus}",
            "set media.card to the card of the store's corpus",
        )  # fmt: skip
    return corpus_root(card, media.root)
