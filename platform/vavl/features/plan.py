"""What an extraction has to do: its parts, and the identity that a continued one must share."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sized
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from vavl.config.files import read_json, sha256_of_json
from vavl.data.card import CorpusCard, card_hash, corpus_root
from vavl.data.card_sources import OpenFaceSource, TableSource
from vavl.data.csv_table import FeatureTable, read_feature_table
from vavl.data.manifest import Manifest
from vavl.data.statistics import ModalityInfo
from vavl.data.store import FORMAT_VERSION, MODALITIES
from vavl.errors import InputError, StoreError
from vavl.features.audio import audio_info, check_audio
from vavl.features.openface import openface_settings
from vavl.features.part import ClipPlace, Part
from vavl.features.settings import FeatureSettings
from vavl.features.table import table_info
from vavl.features.video import check_video, video_info

_FEWEST_CLIPS, _MOST_CLIPS, _PARTS_AIMED_AT = 16, 1024, 64
_MOST_SHOWN = 10


@dataclass(frozen=True)
class ExtractionPlan:
    """Everything that decides the content of a store.

    Attributes:
        manifest: the clips.
        root: absolute corpus folder.
        folder: of the store.
        settings: of the extractors.
        table: ready features that stand for the video; None if there are media files.
        table_file: name of the table's file.
    """

    manifest: Manifest
    root: Path
    folder: Path
    settings: FeatureSettings
    table: FeatureTable | None
    table_file: str = ""

    @cached_property
    def infos(self) -> Mapping[str, ModalityInfo]:
        """Provenance of each modality that a clip of the manifest has."""
        video = table_info(self.table) if self.table is not None else video_info(self.settings.video)
        infos = {"audio": audio_info(self.settings.audio), "video": video}
        return {name: infos[name] for name in MODALITIES if self.clips(name)}

    @property
    def parts_folder(self) -> Path:
        """Where the parts are."""
        return self.folder / "parts"

    def clips(self, modality: str) -> int:
        """Return how many clips have the modality."""
        places = self.manifest.table.column(self._place_column(modality))
        return int(len(places) - places.null_count)

    def parts(self, modality: str) -> Iterator[Part]:
        """Yield the parts of a modality in order; each is made when it is asked for."""
        column = self._place_column(modality)
        columns = list(dict.fromkeys(["clip_id", "speaker", column, "audio_path"]))
        rows = self.manifest.table.select(columns)
        rows = rows.filter(pc.is_valid(rows[column]))
        size = _clips_per_part(len(self.manifest))
        for number, start in enumerate(range(0, rows.num_rows, size)):
            yield Part(
                modality=modality,
                number=number,
                path=self.parts_folder / f"{modality}-{number:05d}.parquet",
                corpus=self.manifest.corpus,
                width=self.infos[modality].width,
                clips=tuple(self._places(rows.slice(start, size), column)),
            )

    def identity(self) -> dict[str, Any]:
        """Return what an interrupted extraction must have in common with the one that continues it."""
        columns = ["clip_id", "speaker", "audio_path", "video_path", "video_table_key"]
        clips = self.manifest.table.select(columns).to_pydict()
        return {
            "format_version": FORMAT_VERSION,
            "corpus": self.manifest.corpus,
            "card_hash": self.manifest.card_hash,
            "clips": sha256_of_json(clips)[:16],
            "clips_per_part": _clips_per_part(len(self.manifest)),
            **{
                name: {
                    "extractor": info.extractor,
                    "version": info.version,
                    "settings": dict(info.settings),
                    "channels": list(info.channels),
                }
                for name, info in self.infos.items()
            },
        }

    def _place_column(self, modality: str) -> str:
        if modality == "audio":
            return "audio_path"
        return "video_path" if self.table is None else "video_table_key"

    def _places(self, rows: pa.Table, column: str) -> Iterator[ClipPlace]:
        from_table = column == "video_table_key"
        for row in rows.to_pylist():
            sound = row["audio_path"] if from_table else None
            yield ClipPlace(row["clip_id"], row["speaker"], row[column], sound)


def plan_extraction(
    card: CorpusCard, manifest: Manifest, root: Path | None, settings: FeatureSettings, folder: Path
) -> ExtractionPlan:
    """Return the plan of an extraction; reads the table of features if the card names one.

    Raises:
        CorpusError: the corpus folder or the table is missing or broken.
        ConfigError: the settings of an extractor do not fit together, or OpenCV's face cascade is missing.
    """
    place = corpus_root(card, root)
    assert manifest.card_hash == card_hash(card)
    if card.audio is not None:
        check_audio(settings.audio)
    if isinstance(card.video, TableSource):
        table = read_feature_table(card.video, place)
        return ExtractionPlan(manifest, place, folder, settings, table, card.video.file)
    if isinstance(card.video, OpenFaceSource):
        settings = settings.model_copy(update={"video": openface_settings(card.video, place)})
    elif card.video is not None:
        check_video(settings.video)
    return ExtractionPlan(manifest, place, folder, settings, None)


def check_same_extraction(plan: ExtractionPlan) -> bool:
    """Tell whether parts of the same extraction are there to continue from.

    Raises:
        StoreError: the parts in the folder were made with another card, other settings or other clips.
    """
    path = plan.parts_folder / "extraction.json"
    if not path.exists():
        return False
    try:
        old = read_json(path)
    except InputError:
        return False
    new = plan.identity()
    changed = [key for key in sorted(new.keys() | old.keys()) if old.get(key) != new.get(key)]
    if changed:
        raise StoreError(
            str(plan.folder), ", ".join(changed),
            "; ".join(difference(key, old.get(key), new.get(key)) for key in changed),
            "set resume=false to start anew, or choose another output_dir",
        )  # fmt: skip
    return True


def difference(key: str, old: Any, new: Any) -> str:
    """Say in words how an earlier value of the extraction's identity differs from the one now."""
    if key == "card_hash":
        return f"the store was begun with another card ({old}, now {new})"
    if key == "clips":
        return "the clips in the corpus folder are not those that the store was begun with"
    if isinstance(old, dict) and isinstance(new, dict):
        flat_old, flat_new = ({**entry, **entry["settings"]} for entry in (old, new))
        names = [
            name
            for name in sorted(flat_old.keys() | flat_new.keys())
            if name != "settings" and flat_old.get(name, "absent") != flat_new.get(name, "absent")
        ]
        changes = ", ".join(
            f"{name} {_short(flat_old.get(name, 'absent'))} -> {_short(flat_new.get(name, 'absent'))}"
            for name in names
        )
        return f"the store was begun with other {key} features ({changes})"
    return f"the store was begun with {key} {old}, now {new}"


def _short(value: Any) -> str:
    """Write a setting of a message; hundreds of channel names would hide the rest."""
    if isinstance(value, Sized) and not isinstance(value, str) and len(value) > _MOST_SHOWN:
        return f"({len(value)} entries)"
    return str(value)


def _clips_per_part(clips: int) -> int:
    """Few parts for a reader, many for the processes and for a restart."""
    return min(max(clips // _PARTS_AIMED_AT, _FEWEST_CLIPS), _MOST_CLIPS)
