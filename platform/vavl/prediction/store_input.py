"""Clips of a feature store, and the split that the model's training saw them in."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from vavl.corpora.manifest import Manifest
from vavl.errors import StoreError
from vavl.features import MODALITIES, FeatureStatistics, ModalityInfo
from vavl.models.saved_model import ModelDescription
from vavl.prediction.clips import ClipInput, ClipsFound
from vavl.prediction.sources import StoreSource
from vavl.store.store import read_content
from vavl.store.store_cache import local_notes


def store_clips(place: Path | str, model: ModelDescription) -> tuple[ClipsFound, StoreSource]:
    """Return the clips of a store and their source; no features are copied or read.

    Features of another corpus than the model's are welcome as long as the same extractor made them.

    Raises:
        StoreError: there is no store, or its features are not those of the model.
        InputError: the address cannot be reached.
    """
    notes = local_notes(place)
    content, manifest = read_content(notes), Manifest.read(notes)
    modalities = [
        name for name in MODALITIES if name in content["modalities"] and getattr(model, name).trained
    ]
    if not modalities:
        raise StoreError(
            str(place), "modalities", f"holds {', '.join(content['modalities'])}; the model was trained on neither",
            "use a store that has a side which the model knows",
        )  # fmt: skip
    for name in modalities:
        statistics = FeatureStatistics.from_dict(getattr(model, name).statistics)
        statistics.check(statistics.corpus, ModalityInfo.from_entry(content["modalities"][name]))
    found = ClipsFound("store", _clips(manifest, model, modalities))
    return found, StoreSource(place, str(content["store_hash"]), tuple(modalities))


def _clips(manifest: Manifest, model: ModelDescription, modalities: list[str]) -> list[ClipInput]:
    names = {"clip_id": "clip_id", "corpus": "corpus", "speaker": "speaker"}
    split = _split_column(manifest, model)
    if split is not None:
        names["split"] = split
    for modality in modalities:
        # A store knows what it has when its rows are asked for; paths are for people.
        column = next(
            (
                name
                for name in (f"{modality}_path", f"{modality}_table_key")
                if _has_values(manifest.table, name)
            ),
            None,
        )
        if column is not None:
            names[modality] = column
    columns = {name: manifest.table[column].to_pylist() for name, column in names.items()}
    return [
        ClipInput(**dict(zip(columns, values, strict=True))) for values in zip(*columns.values(), strict=True)
    ]


def _split_column(manifest: Manifest, model: ModelDescription) -> str | None:
    """Return the column of the fold that the model was trained on; None where the store splits otherwise."""
    trained = model.provenance
    column = f"split_{trained.get('fold')}"
    is_same = (manifest.corpus, manifest.protocol) == (trained.get("corpus"), trained.get("protocol"))
    return column if is_same and column in manifest.table.column_names else None


def _has_values(table: pa.Table, column: str) -> bool:
    return column in table.column_names and table[column].null_count < len(table)
