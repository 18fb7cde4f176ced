"""What an extraction did: clips that could not be read, numbers for programs, a short table for people."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from vavl.config.files import write_text
from vavl.errors import ClipError
from vavl.features import MODALITIES
from vavl.store.store import FeatureStore

QUARANTINE_FILE = "quarantine.jsonl"


@dataclass(frozen=True)
class Quarantined:
    """One modality of one clip that is left out of the store."""

    clip_id: str
    modality: str  # "audio" or "video"; the clip's other modality is not touched
    file: str
    reason: str  # what a person should know
    exception: str  # type and text of the error underneath

    @classmethod
    def of(cls, clip_id: str, modality: str, file: str, error: Exception) -> Self:
        """Describe a clip by the exception that its extraction raised."""
        reason = error.problem if isinstance(error, ClipError) else "unexpected error of the extractor"
        cause = error.__cause__ or error
        text = cause.problem if isinstance(cause, ClipError) else str(cause)
        return cls(clip_id, modality, file, reason, f"{type(cause).__name__}: {text}")


def write_quarantine(directory: Path, quarantined: Iterable[Quarantined]) -> Path:
    """Write quarantine.jsonl, one record per line in the given order; an empty file when all is well."""
    path = directory / QUARANTINE_FILE
    write_text(path, "".join(json.dumps(asdict(entry), ensure_ascii=False) + "\n" for entry in quarantined))
    return path


@dataclass(frozen=True)
class ExtractionResult:
    """What an extraction did; all counts but ``tally`` and ``clips`` are of (clip, modality) pairs."""

    store: FeatureStore
    clips: int
    seconds: float
    extracted: int
    kept: int  # taken over from earlier: neither file nor settings changed
    added: int  # extracted, and not in the store before
    extracted_again: int  # extracted, and in the store before: the file or the settings changed
    removed: int  # in the store before, and no longer in the corpus directory
    quarantined: tuple[Quarantined, ...]  # all that are left out
    # all that are there and carry nothing; their clips count as clips without the modality
    without_signal: tuple[Quarantined, ...]
    tally: Mapping[str, int]  # sums over all clips, e.g. ``face_frames``


def extraction_summary(result: ExtractionResult) -> dict[str, Any]:
    """Return the content of summary.json.

    Keys: ``corpus``; ``clips`` of the manifest; ``paired_clips``, ``audio_clips``, ``video_clips`` of
    the store, ``audio_frames``, ``video_frames``; ``quarantined`` (clip, modality) pairs;
    ``without_signal``, pairs by modality that carry nothing;
    ``fixed_crops``, clips in which no face was found, and ``face_share`` of video frames with a found
    face (null without video); ``extracted`` pairs of this run and ``kept`` ones of earlier runs;
    ``added``, ``extracted_again`` and ``removed`` pairs, compared with the store that was there;
    ``largest_relative_error`` of the numbers on disk by modality, zero unless ``features.dtype`` is float16;
    ``seconds`` of this run, ``clips_per_second`` (pairs); ``store_hash``, ``card_hash``.
    """
    store, tally = result.store, result.tally
    ids = {name: store.clip_ids(name) for name in MODALITIES if name in store.info}
    paired = int((store.rows("audio", ids["video"]) >= 0).sum()) if len(ids) == len(MODALITIES) else 0
    counts: dict[str, Any] = {
        f"{name}_{what}": getattr(store.info[name], what) if name in store.info else 0
        for what in ("clips", "frames")
        for name in MODALITIES
    }
    frames = tally.get("video_frames", 0)
    return {
        "corpus": store.corpus,
        "clips": result.clips,
        "paired_clips": paired,
        **counts,
        "quarantined": len(result.quarantined),
        "without_signal": dict(Counter(entry.modality for entry in result.without_signal)),
        "fixed_crops": tally.get("fixed_crops", 0),
        "face_share": tally.get("face_frames", 0) / frames if frames else None,
        "extracted": result.extracted,
        "kept": result.kept,
        "added": result.added,
        "extracted_again": result.extracted_again,
        "removed": result.removed,
        "largest_relative_error": {
            name: max(shard["relative_error"] for shard in entry["shards"])
            for name, entry in store.content["modalities"].items()
        },
        "seconds": round(result.seconds, 3),
        "clips_per_second": round(result.extracted / max(result.seconds, 1e-6), 3),
        "store_hash": store.hash,
        "card_hash": store.content["card_hash"],
    }


def summary_rows(summary: Mapping[str, Any], directory: Path) -> Sequence[tuple[str, Any]]:
    """Return the rows of the table that the job prints; ``directory`` is that of the store."""
    rows = [
        ("clips", f"{summary['clips']}, {summary['paired_clips']} with audio and video"),
        ("audio", f"{summary['audio_clips']} clips, {summary['audio_frames']} frames"),
        ("video", f"{summary['video_clips']} clips, {summary['video_frames']} frames"),
    ]
    if summary["face_share"] is not None:
        found = f"found in {summary['face_share']:.1%} of the frames"
        rows.append(("faces", f"{found}, in none of {summary['fixed_crops']} clips"))
    if error := max(summary["largest_relative_error"].values(), default=0.0):
        rows.append(("float16", f"largest relative error {error:.2g}"))
    speed = f"{summary['seconds']:.1f} s, {summary['clips_per_second']:.1f} per second"
    changes = "{added} added, {kept} kept, {extracted_again} extracted again, {removed} removed"
    return [
        *rows,
        ("files", changes.format(**summary)),
        *(
            (f"{name} without signal", f"{count} clips count as clips without it, see notes.jsonl")
            for name, count in summary["without_signal"].items()
        ),
        ("quarantined", f"{summary['quarantined']}, see {directory / QUARANTINE_FILE}"),
        ("speed", f"{summary['extracted']} files in {speed}"),
        ("store", f"{directory} (hash {summary['store_hash']})"),
    ]
