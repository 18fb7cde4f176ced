"""What can go wrong with a clip on its way to a model, and what it does to the clip's frames.

Audio and video of a clip cover the same interval, and every frame of a store has its time. So:

- noise in the audio is added to the waveform, and the model's own extractor reads the result; it needs the media;
- a dropped video frame never arrived: the last one that did is shown in its place, so the clip keeps its length. A
  larger share drops every frame that a smaller one drops;
- under a shift the video comes so many seconds later than the audio (earlier, if negative): the frame of
  time t is the one recorded at t - seconds. Where nothing was recorded, the first or last frame stands still;
- noise on features is drawn per frame and channel, in units of the training speakers' deviation. It stands
  for no accident in the world and is named for what it is.

All draws depend on the seed and the clip's id alone: not on other clips, nor on their order.
"""

from __future__ import annotations

import hashlib
import logging
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import soundfile
from numpy.typing import NDArray

from vavl.corpora.card import corpus_root, read_card
from vavl.data.collection import FrameChange
from vavl.errors import ClipError, ConfigError, InputError
from vavl.evaluation.measure import MeasuredClips
from vavl.evaluation.settings import DegradationSettings, EvaluationPlan, MediaSettings
from vavl.extractors.extracted import Extractor
from vavl.extractors.extractor import extractor_of
from vavl.media.decoded_sound import decode_sound
from vavl.media.sound import read_sound
from vavl.metrics.names import AUDIO, AUDIO_VIDEO, CONDITIONS, VIDEO
from vavl.models.saved_model import SavedModel

_log = logging.getLogger(__name__)

_CHECKED_CLIPS = 3
_SAME = 1e-3
_LONGEST_S = 3600.0
Frames = NDArray[np.float32]


@dataclass(frozen=True)
class Degradation:
    """One kind of damage in one strength."""

    kind: Literal["noise", "dropped_frames", "shifted", "feature_noise"]
    # noise: 10 log10 of the power of the clip's audio over that of the noise; dropped_frames: share, between 0 and 1;
    # shifted: seconds that the video comes later than the audio; feature_noise: deviations of the training speakers
    strength: float
    conditions: tuple[str, ...]  # that it can change
    name: str  # in metric names
    title: str
    plot: str  # title of the plot of its kind
    level: str  # marks its strength there


def degradations_of(settings: DegradationSettings) -> Iterator[Degradation]:
    """Yield the degradations in the order of the report; a shift of 0 s is none."""
    with_audio, with_video = (AUDIO_VIDEO, AUDIO), (AUDIO_VIDEO, VIDEO)
    for snr in settings.noise_db:
        name, title, plot = f"noise_{snr:g}db", f"noise, {snr:g} dB SNR", f"{settings.noise_kind} noise in the audio"
        yield Degradation("noise", snr, with_audio, name, title, plot, f"{snr:g} dB")
    for share in settings.dropped_frames:
        name, level, plot = f"dropped_frames_{share:g}", f"{100 * share:g} %", "video frames dropped"
        yield Degradation("dropped_frames", share, with_video, name, f"{level} of {plot}", plot, level)
    for seconds in filter(None, settings.shifted_s):
        title = f"video {abs(seconds):g} s {'late' if seconds > 0 else 'early'}"
        yield Degradation(
            "shifted", seconds, with_video, f"shifted_{seconds:g}s", title, "video late", f"{seconds:+g} s"
        )
    for size in settings.feature_noise:
        name, title = f"feature_noise_{size:g}", f"noise on features, {size:g} deviations"
        yield Degradation("feature_noise", size, CONDITIONS, name, title, "noise on features (deviations)", f"{size:g}")


def drop_frames(frames: Frames, share: float, generator: np.random.Generator) -> Frames:
    """Return frames (time, channel) with the last kept one in place of each dropped one; one is always kept."""
    dropped = min(round(share * len(frames)), len(frames) - 1)
    kept = np.ones(len(frames), dtype=np.bool_)
    kept[np.argsort(generator.random(len(frames)), kind="stable")[:dropped]] = False
    source = np.maximum.accumulate(np.where(kept, np.arange(len(frames)), -1))
    shown: Frames = frames[np.where(source < 0, np.argmax(kept), source)]
    return shown


def shift_frames(frames: Frames, times: Frames, seconds: float) -> Frames:
    """Return for each frame (time, channel) the one recorded ``seconds`` before it; ``times`` (time,) ascend."""
    wanted = times - seconds
    after = np.clip(np.searchsorted(times, wanted), 1, max(1, len(times) - 1))
    before = after - 1
    after = np.minimum(after, len(times) - 1)
    is_nearer = np.abs(times[after] - wanted) < np.abs(times[before] - wanted)
    shown: Frames = frames[np.where(is_nearer, after, before)]
    return shown


def add_feature_noise(frames: Frames, std: Frames, generator: np.random.Generator) -> Frames:
    """Return raw frames (time, channel) with normal noise of deviations ``std`` (channel,)."""
    noisy: Frames = frames + std * generator.standard_normal(frames.shape, dtype=np.float32)
    return noisy


def draws_of(seed: int, kind: str, clip_id: str) -> np.random.Generator:
    """Return the generator of one kind of draw for one clip; the same for every strength."""
    digest = hashlib.sha256(f"{seed}\0{kind}\0{clip_id}".encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:8], "big"))


def add_noise(
    waveform: Frames, snr_db: float, generator: np.random.Generator, kind: Literal["white", "pink"] = "white"
) -> Frames:
    """Return the sound with noise of the stated signal-to-noise ratio, power over power of the whole clip.

    Silence stays as it is, for it has no ratio. The same generator gives the same noise at every ratio. Pink noise
    falls by 3 dB per octave.
    """
    noise = generator.standard_normal(len(waveform))
    if kind == "pink":
        spectrum = np.fft.rfft(noise)
        spectrum /= np.sqrt(np.maximum(np.arange(len(spectrum)), 1))
        noise = np.fft.irfft(spectrum, n=len(waveform))
    power, own = np.square(waveform, dtype=np.float64).mean(), np.square(noise).mean()
    noisy: Frames = (waveform + noise * np.sqrt(power / own * 10 ** (-snr_db / 10))).astype(np.float32)
    return noisy


@dataclass
class NoisySound:
    """Features of the audio of clips with noise in it."""

    clips: MeasuredClips  # the clips, with the manifest's paths
    root: Path  # directory of the media
    extractor: Extractor  # of the model
    seed: int  # of all noise
    kind: Literal["white", "pink"]  # of the noise
    # why a clip could not be read, by manifest row; its features stay as they are in the store
    failed: dict[int, str] = field(default_factory=dict)

    def features(self, row: int, snr_db: float | None) -> NDArray[np.float32]:
        """Return the features (time, channel) of a clip's sound, with noise unless ``snr_db`` is None.

        Raises:
            ClipError: the sound cannot be read.
        """
        path = self.root / str(self.clips.collection.manifest.table["audio_path"][row].as_py())
        if snr_db is None:
            return self.extractor(path).values
        rate_hz = decode_sound(path, _LONGEST_S).rate_hz
        generator = draws_of(self.seed, f"{self.kind} noise", self.clips.clip_id(row))
        noisy = add_noise(read_sound(path, rate_hz).waveform, snr_db, generator, self.kind)
        with tempfile.TemporaryDirectory(prefix="vavl-noise-") as directory:
            noisy_file = Path(directory) / "noisy.wav"
            # Floating point: a loud clip with noise goes beyond full scale and must not be clipped.
            soundfile.write(noisy_file, noisy, rate_hz, subtype="FLOAT")
            return self.extractor(noisy_file).values

    def changed(self, row: int, raw: NDArray[np.float32], snr_db: float) -> NDArray[np.float32]:
        """Return noisy features, or ``raw`` with the reason noted in ``failed``."""
        try:
            return self.features(row, snr_db)
        except ClipError as error:
            self.failed[row] = str(error)
            return raw

    def disagreement(self) -> str:
        """Compare some clips, extracted again without noise, with the store; "" if they agree."""
        collection = self.clips.collection
        rows = self.clips.rows[collection.has("audio", self.clips.rows)][:_CHECKED_CLIPS].tolist()
        largest = 0.0
        for row in rows:
            stored = collection.store.features("audio", int(collection.store_row["audio"][row]))
            try:
                again = self.features(row, None)
            except ClipError as error:
                return f"clip {self.clips.clip_id(row)} cannot be read: {error}"
            if again.shape != stored.shape:
                return f"the audio of the media gives {again.shape[0]} frames where the store has {stored.shape[0]}"
            scale = self.clips.normaliser["audio"].common.std
            largest = max(largest, float((np.abs(again - stored) / scale).max()))
        if largest > _SAME:
            return f"features of the media differ from the store's by up to {largest:.2g} deviations"
        return ""


def open_sound(
    clips: MeasuredClips, provenance: Mapping[str, Any], media: MediaSettings, settings: DegradationSettings
) -> NoisySound:
    """Find the media and make the model's audio extractor.

    ``provenance`` is that of the model's audio features.

    Raises:
        InputError: only features are at hand: no media are named, the directory is not there, the store has no
            paths, or the features come from a table.
        ConfigError: the card is of another corpus, or the extractor lacks a package or file.
    """
    root = _root(clips, media)
    manifest = clips.collection.manifest
    table = manifest.table
    if "audio_path" not in table.column_names or table["audio_path"].null_count == len(manifest):
        place = str(clips.selection.store)
        raise InputError(place, "audio_path", "the store names no audio files", "measure without noise_db")
    extractor = extractor_of(provenance, "audio")
    return NoisySound(clips, root, extractor, settings.seed, settings.noise_kind)


def _root(clips: MeasuredClips, media: MediaSettings) -> Path:
    manifest = clips.collection.manifest
    if media.card is None:
        if media.root is None:
            fix = "set media.card to the card of the corpus, or media.root to its directory"
            raise InputError("media", "card, root", "no media are named: only features are at hand", fix)
        if not media.root.is_dir():
            raise InputError(str(media.root), "media.root", "there is no such directory", "correct media.root")
        return media.root
    card = read_card(media.card)
    if card.name != manifest.corpus:
        problem = f"is the card of {card.name}, the store holds {manifest.corpus}"
        raise ConfigError(str(media.card), "name", problem, "set media.card to the card of the store's corpus")
    return corpus_root(card, media.root)


@dataclass(frozen=True)
class Degradations:
    """The degradations that can be measured on some clips."""

    changes: tuple[tuple[Degradation, FrameChange], ...]  # each with what it does to the frames of a clip
    not_measured: Mapping[str, str]  # why others cannot be, by name
    sound: NoisySound | None  # the media, where noise is added to them


def open_degradations(model: SavedModel, plan: EvaluationPlan, clips: MeasuredClips) -> Degradations:
    """Decide which degradations these clips allow, and say why others cannot be measured.

    Raises:
        ConfigError: the card is of another corpus, or the extractor lacks a package or a file.
    """
    settings = plan.degradations
    wanted = [each for each in degradations_of(settings) if set(each.conditions) & set(clips.conditions)]
    sound, why = None, ""
    if any(each.kind == "noise" for each in wanted):
        try:
            sound = open_sound(clips, model.description.audio.extractor, plan.media, settings)
        except ConfigError:
            raise
        except InputError as error:
            why = f"noise needs the audio itself: {error.problem}"
    not_measured = {each.name: why for each in wanted if why and each.kind == "noise"}
    usable = [each for each in wanted if each.name not in not_measured]
    changes = tuple((each, _change(each, clips, settings.seed, sound)) for each in usable)
    if not_measured:
        _log.warning("not measured: %s; %s", ", ".join(not_measured), why)
    return Degradations(changes, not_measured, sound)


def _change(degradation: Degradation, clips: MeasuredClips, seed: int, sound: NoisySound | None) -> FrameChange:
    """Return what a degradation does to the raw frames (time, channel) of a clip."""
    collection = clips.collection

    def draws(kind: str, row: int) -> np.random.Generator:
        return draws_of(seed, kind, clips.clip_id(row))

    def change(modality: str, row: int, raw: Frames) -> Frames:
        match degradation.kind, modality:
            case "noise", "audio":
                assert sound is not None
                return sound.changed(row, raw, degradation.strength)
            case "dropped_frames", "video":
                return drop_frames(raw, degradation.strength, draws("dropped frames", row))
            case "shifted", "video":
                times = collection.store.frame_times(modality, int(collection.store_row[modality][row]))
                return shift_frames(raw, times, degradation.strength)
            case "feature_noise", _:
                normaliser = clips.normaliser[modality]
                own = normaliser.by_speaker.get(int(collection.speaker[row]), normaliser.common)
                std = np.float32(degradation.strength) * own.std
                return add_feature_noise(raw, std, draws(f"{modality} features", row))
        return raw

    return change
