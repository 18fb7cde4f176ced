"""The extraction of a small corpus, here and without Ray."""

from __future__ import annotations

from pathlib import Path

from vavl.corpora.card import read_card
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import ExtractionResult, extract_features
from vavl.extraction.plan import ExtractionPlan, plan_extraction
from vavl.extraction.settings import ExtractionRun, FeatureSettings

HERE = ExtractionRun(workers=0, max_quarantined_share=0.2)
TAKES = 3


def plan_of(corpus: Path, store: Path, settings: FeatureSettings | None = None) -> ExtractionPlan:
    card = read_card(corpus / "tiny.yaml")
    root = corpus / "media"
    return plan_extraction(card, build_manifest(card, root), root, settings or FeatureSettings(), store)


def extract(corpus: Path, store: Path, run: ExtractionRun = HERE) -> ExtractionResult:
    return extract_features(plan_of(corpus, store), run)


def contents(folder: Path) -> dict[str, bytes]:
    """Return the files of a store by name, but for the (empty) lock."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    assert "store.json" in files
    return {name: path.read_bytes() for name, path in files.items() if name != "parts/lock"}
