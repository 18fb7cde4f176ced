"""The summary of an extraction: numbers for programs and a short table for people."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vavl.extraction.extract import ExtractionResult
from vavl.extraction.plan import ExtractionPlan
from vavl.features import MODALITIES


def extraction_summary(plan: ExtractionPlan, result: ExtractionResult) -> dict[str, Any]:
    """Return the content of summary.json.

    Keys: ``corpus``; ``clips`` of the manifest; ``paired_clips``, ``audio_clips``, ``video_clips`` of
    the store, ``audio_frames``, ``video_frames``; ``quarantined`` (clip, modality) pairs;
    ``fixed_crops``, clips in which no face was found, and ``face_share`` of video frames with a found
    face (null without pictures); ``extracted`` pairs of this run and ``kept`` ones of earlier runs;
    ``added``, ``extracted_again`` and ``removed`` pairs, compared with the store that was there;
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
    seen = tally.get("video_frames", 0)
    return {
        "corpus": store.corpus,
        "clips": len(plan.manifest),
        "paired_clips": paired,
        **counts,
        "quarantined": len(result.quarantined),
        "fixed_crops": tally.get("fixed_crops", 0),
        "face_share": tally.get("face_frames", 0) / seen if seen else None,
        "extracted": result.extracted,
        "kept": result.kept,
        "added": result.added,
        "extracted_again": result.extracted_again,
        "removed": result.removed,
        "seconds": round(result.seconds, 3),
        "clips_per_second": round(result.extracted / max(result.seconds, 1e-6), 3),
        "store_hash": store.hash,
        "card_hash": plan.manifest.card_hash,
    }


def summary_rows(summary: dict[str, Any], folder: Path) -> Sequence[tuple[str, Any]]:
    """Return the rows of the table that the job prints."""
    rows = [
        ("clips", f"{summary['clips']}, {summary['paired_clips']} with audio and video"),
        ("audio", f"{summary['audio_clips']} clips, {summary['audio_frames']} frames"),
        ("video", f"{summary['video_clips']} clips, {summary['video_frames']} frames"),
    ]
    if summary["face_share"] is not None:
        found = f"found in {summary['face_share']:.1%} of the frames"
        rows.append(("faces", f"{found}, in none of {summary['fixed_crops']} clips"))
    speed = f"{summary['seconds']:.1f} s, {summary['clips_per_second']:.1f} per second"
    changes = "{added} added, {kept} kept, {extracted_again} extracted again, {removed} removed"
    rows += [
        ("files", changes.format(**summary)),
        ("quarantined", f"{summary['quarantined']}, see {folder / 'quarantine.jsonl'}"),
        ("speed", f"{summary['extracted']} files in {speed}"),
        ("store", f"{folder} (hash {summary['store_hash']})"),
    ]
    return rows
