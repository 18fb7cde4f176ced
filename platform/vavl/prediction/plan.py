"""What is to be predicted: the clips, where their features come from, and what each prediction depends on."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path

from vavl.config.files import sha256_of_file, sha256_of_json
from vavl.data.normalization import order_of_clips
from vavl.errors import ConfigError, CorpusError, InputError, StoreError, readable
from vavl.extractors.extractor import extractor_settings
from vavl.features import MODALITIES
from vavl.metrics.names import CONDITIONS
from vavl.models.saved_model import ModelDescription, load_model
from vavl.models.settings import Decision, decision_of
from vavl.prediction.inputs import directory_clips, manifest_clips, single_clip, store_clips
from vavl.prediction.settings import MANIFEST_SUFFIXES, MEDIA_SUFFIXES, PredictionSettings
from vavl.prediction.sources import ClipInput, ClipsFound, MediaSource, Source, following

logger = logging.getLogger(__name__)

_FORMAT = 1
_THREADS_THAT_LOOK = 16
_DESCRIPTION, _STORE_FILE = "model.json", "store.json"


@dataclass(frozen=True)
class PredictionPlan:
    """Everything that decides what the results hold."""

    found: ClipsFound  # the clips
    source: Source  # of their features
    model_directory: Path  # absolute
    model: ModelDescription  # that predicts
    conditions: tuple[str, ...] | None  # a row for each that a clip allows; None: one row, from all that a clip has
    unavailable: Mapping[str, str]  # side that the model knows -> why its features cannot be made here
    decision: Decision | None = None  # how labels are chosen; None: the most probable class

    @cached_property
    def model_hash(self) -> str:
        """Sixteen hexadecimal digits over weights and description."""
        return sha256_of_file(self.model_directory / _DESCRIPTION)[:16]

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Hash of all that the prediction of each clip depends on; looks at size and time of every file once."""
        with ThreadPoolExecutor(_THREADS_THAT_LOOK) as threads:
            marks = threads.map(self.source.mark, self.found.clips)
            keys = [self._key(clip, mark) for clip, mark in zip(self.found.clips, marks, strict=True)]
        if self.by_speaker is None:
            return tuple(keys)
        for places in self.by_speaker:
            for before, place in pairwise(places):
                keys[place] = sha256_of_json([keys[before], keys[place]])[:24]
        return tuple(keys)

    @cached_property
    def by_speaker(self) -> list[list[int]] | None:
        """Places of each speaker's clips in their order; None where the clips of a speaker do not need each other."""
        if self.model.speaker_normalisation != "causal_mean":
            return None
        # A table is in order; a store has none but that of names.
        order = self.model.speaker_order if self.found.kind == "store" else "file"
        found: dict[str, list[int]] = {}
        for place in order_of_clips([clip.clip_id for clip in self.found.clips], order):
            found.setdefault(str(self.found.clips[place].speaker), []).append(place)
        return list(found.values())

    def _key(self, clip: ClipInput, mark: str) -> str:
        # What decides which sides are looked for: the same file may give its sound track or not.
        how = []
        if isinstance(self.source, MediaSource):
            how = [self.source.sound_of_video, *self.source.modalities, *["each face"] * self.source.each_face]
        content = [_FORMAT, self.model_hash, self.conditions, how, clip.clip_id, clip.audio, clip.video, mark]
        piece = [] if clip.piece is None else list(clip.piece)
        return sha256_of_json([*content, clip.problem, *piece])[:24]


def plan_prediction(settings: PredictionSettings, model_directory: Path) -> PredictionPlan:
    """Find the clips of an input and check that the model can predict them; opens no media.

    Raises:
        InputError: the model cannot be loaded, or needs features normalized per speaker.
        ConfigError: labels cannot be chosen, or faces followed, as asked for.
        CorpusError: there is no input, or it holds no clips.
        StoreError: a store's features, or those that can be made here, are not the model's.
    """
    model = load_model(model_directory).description
    if model.speaker_normalisation in ("mean", "full"):
        problem = "was trained on features normalized per speaker"
        fix = "predict with a model that was trained with features.speaker_normalisation=none or causal_mean"
        raise InputError(str(model_directory), "speaker_normalisation", problem, fix)
    decision = decision_of(settings, model.task, model.class_shares)
    if settings.faces == "each" and _is_store(settings.input):
        problem = "a store holds the features of one face per clip"
        raise ConfigError("prediction", "faces", problem, "set faces=largest, or give the media as input")
    if settings.faces == "each" and model.video.trained:
        following(model.extractors["video"])
    found, source, unavailable = _input(settings, model)
    if model.speaker_normalisation == "causal_mean":
        _check_speakers(settings, found)
    conditions: tuple[str, ...] | None = settings.conditions
    if conditions is None and found.kind == "file":
        conditions = CONDITIONS
    return PredictionPlan(found, source, model_directory.absolute(), model, conditions, unavailable, decision)


def _input(settings: PredictionSettings, model: ModelDescription) -> tuple[ClipsFound, Source, Mapping[str, str]]:
    """Return the clips, their source, and the sides whose features cannot be made, with the reason."""
    place = settings.input
    if _is_store(place):
        found, store = store_clips(place.absolute() if isinstance(place, Path) else place, model)
        return found, store, {}
    assert isinstance(place, Path)
    if readable(str(place)) != str(place):
        raise CorpusError(readable(str(place)), "input", "the name is not UTF-8", "rename it")
    root = limit = place.absolute()
    if place.is_dir():
        limit = settings.root or root
        if not root.resolve().is_relative_to(limit.resolve()):
            fix = "leave root out, or name a directory above it"
            raise CorpusError(str(limit), "root", f"does not hold the input, {root}", fix)
        found = directory_clips(root)
    elif not place.is_file():
        raise CorpusError(str(place), "input", "there is no such directory or file", "check the path")
    elif place.suffix.lower() in MANIFEST_SUFFIXES:
        root = limit = (settings.root or place.parent).absolute()
        found = manifest_clips(place, root)
    elif place.suffix.lower() in MEDIA_SUFFIXES:
        # Whoever names a link means the file that it leads to.
        root, limit, found = root.parent, Path(root.anchor), single_clip(place)
    else:
        fix = "name a directory, a media file such as clip.mp4, a .parquet or .csv table, or a feature store"
        raise CorpusError(str(place), "input", f"`{place.suffix}` is neither a media file nor a manifest", fix)
    can, cannot = _sides(model)
    return found, MediaSource(root, limit, settings.sound_of_video, can, settings.faces == "each"), cannot


def _check_speakers(settings: PredictionSettings, found: ClipsFound) -> None:
    missing = [clip.clip_id for clip in found.clips if not clip.speaker]
    if missing:
        problem = (
            f"the model takes the mean of each speaker's earlier clips off, and {len(missing)} of "
            f"{len(found.clips)} clips have no speaker, e.g. {readable(missing[0])}"
        )
        fix = "predict a table (.csv, .parquet) with a column `speaker`, one row per clip, in the order of recording"
        raise CorpusError(readable(str(settings.input)), "speaker", problem, fix)
    for key, is_asked in (("timeline", settings.timeline), ("faces", settings.faces == "each")):
        if is_asked:
            problem = "takes no earlier clips of a speaker into account, which this model needs"
            fix = f"leave {key} out, or use a model trained with features.speaker_normalisation=none"
            raise ConfigError("prediction", key, problem, fix)


def _is_store(place: Path | str) -> bool:
    if isinstance(place, str):
        return True
    is_version = not place.exists() and "@" in place.name
    return is_version or (place / _STORE_FILE).exists()


def _sides(model: ModelDescription) -> tuple[tuple[str, ...], dict[str, str]]:
    """Return the sides whose features can be made from media here, and the others with the reason.

    Raises:
        StoreError: there is no side left.
    """
    trained = [name for name in MODALITIES if getattr(model, name).trained]
    cannot: dict[str, str] = {}
    for name in trained:
        try:
            extractor_settings(getattr(model, name).extractor, name)
        except StoreError as error:
            cannot[name] = error.problem.partition("\n")[0]
    if len(cannot) == len(trained):
        problem = "reads no media: " + "; ".join(f"{name} features {why}" for name, why in cannot.items())
        raise StoreError("model", "extractor", problem, "predict from a store that holds its features: input=DIRECTORY")
    for name, why in cannot.items():
        logger.warning("%s is left out of every clip: its features %s", name, why)
    return tuple(name for name in trained if name not in cannot), cannot
