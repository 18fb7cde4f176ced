"""What a merge did: numbers for programs and a short table for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from vavl.corpora.manifest import Manifest
from vavl.corpora.splits import SPLITS
from vavl.store.store import FeatureStore
from vavl.store.store_merge import MergePlan


def merge_summary(plan: MergePlan, store: FeatureStore, seconds: float) -> dict[str, Any]:
    """Return the content of summary.json.

    Keys: ``corpus``, ``clips``, ``speakers``, ``audio_clips``, ``video_clips``; ``labelled`` clips by class;
    ``protocol`` and ``folds``: per fold its ``name`` and clips by split; ``sources``: per corpus ``place``,
    ``clips``, ``store_hash``, ``licence``, ``target``; ``store_hash``, ``seconds``.
    """
    manifest = Manifest.read(store.folder)
    table, folds = manifest.table, {}
    for fold in plan.folds:
        split = table[f"split_{fold.number}"]
        counts = {name: int(pc.sum(pc.equal(split, name)).as_py() or 0) for name in SPLITS}
        folds[str(fold.number)] = {"name": fold.name, **counts}
    labelled = {entry["values"]: entry["counts"] for entry in pc.value_counts(table["label"]).to_pylist()}
    shown = ("clips", "store_hash", "licence", "target")
    return {
        "corpus": store.corpus,
        "clips": len(manifest),
        "speakers": len(manifest.speaker_codes()[1]),
        **{f"{name}_clips": info.clips for name, info in store.info.items()},
        "labelled": {name: labelled.get(name, 0) for name in manifest.classes},
        "protocol": manifest.protocol,
        "folds": folds,
        "sources": {
            corpus: {"place": str(source.place)} | {key: source.provenance[key] for key in shown}
            for corpus, source in plan.sources.items()
        },
        "store_hash": store.hash,
        "seconds": round(seconds, 3),
    }


def merge_rows(summary: Mapping[str, Any], folder: Path) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    rows = [
        (corpus, f"{source['clips']} clips, {source['target']}, licence {source['licence'] or 'unknown'}")
        for corpus, source in summary["sources"].items()
    ]
    labelled = ", ".join(f"{name} {count}" for name, count in summary["labelled"].items())
    rows += [
        ("clips", f"{summary['clips']} of {summary['speakers']} speakers"),
        ("labelled", labelled),
        ("protocol", summary["protocol"]),
    ]
    for number, fold in summary["folds"].items():
        counts = ", ".join(f"{name} {fold[name]}" for name in SPLITS)
        rows.append((f"fold {number}", f"{fold['name']}: {counts}"))
    return [*rows, ("store", f"{folder} (hash {summary['store_hash']})")]
