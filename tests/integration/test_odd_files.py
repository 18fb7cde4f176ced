"""Broken and odd media through the whole extraction: each kind is read, or in quarantine with its reason.

A worker of Ray extracts: a file that ends its process ends neither the extraction nor pytest.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import pytest
from odd_media import AUDIO, VIDEO, OddFile
from small_media_corpus import CARD

from vavl.config.load import validate
from vavl.corpora.card import CorpusCard
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import extract_features
from vavl.extraction.plan import plan_extraction
from vavl.extraction.report import Quarantined
from vavl.extraction.settings import ExtractionRun, FeatureSettings
from vavl.ray_session import join_ray
from vavl.store.store import FeatureStore

pytestmark = [pytest.mark.ray, pytest.mark.promise]

KINDS = [("audio", kind) for kind in AUDIO] + [("video", kind) for kind in VIDEO]
SPEAKERS = ("s1", "s2", "s3")


@dataclass(frozen=True)
class Extracted:
    """What became of the corpus of odd files."""

    store: FeatureStore
    quarantined: dict[tuple[str, str], Quarantined]


def clip_id(side: str, kind: OddFile) -> str:
    return f"{SPEAKERS[sum(kind.name.encode()) % 3]}_{side}_{kind.name}"


@pytest.fixture(scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Extracted:
    root = tmp_path_factory.mktemp("odd")
    for side, kind in KINDS:
        path = root / side / f"{clip_id(side, kind)}{kind.suffix}"
        path.parent.mkdir(exist_ok=True)
        kind.make(path)
    pattern = r"(?P<clip>(?P<speaker>s\d)_\w+)"
    suffixes = {side: sorted({kind.suffix for other, kind in KINDS if other == side}) for side in ("audio", "video")}
    content = {key: CARD[key] for key in CARD if key not in {"label", "labels", "sex", "classes"}}
    content |= {
        "audio": {"pattern": f"audio/{pattern}", "suffixes": suffixes["audio"]},
        "video": {"source": "files", "pattern": f"video/{pattern}", "suffixes": suffixes["video"]},
        "splits": {
            "protocol": "odd",
            "folds": {"source": "list", "test_speakers": {0: ["s1"]}},
            "validation_speakers": 1,
            "untested_speakers": "train",
        },
        "expected": {"clips": len(KINDS), "speakers": 3},
    }
    card = validate(CorpusCard, content, "odd.yaml")
    manifest = build_manifest(card, root)
    assert len(manifest) == len(KINDS)
    longest = {"longest_clip_s": 30}
    settings = validate(FeatureSettings, {"audio": longest, "video": longest}, "odd.yaml")
    plan = plan_extraction(card, manifest, root, settings, tmp_path_factory.mktemp("store"))
    join_ray(threads=1)  # those that come next have it, too
    result = extract_features(plan, ExtractionRun(workers=1, max_quarantined_share=1.0))
    left_out = [*result.quarantined, *result.without_signal]
    records = {(entry.modality, entry.clip_id): entry for entry in left_out}
    return Extracted(result.store, records)


def test_there_are_at_least_40_kinds_and_no_two_have_one_name():
    assert len({(side, kind.name) for side, kind in KINDS}) == len(KINDS) >= 40


@pytest.mark.parametrize(("side", "kind"), KINDS, ids=[f"{side}-{kind.name}" for side, kind in KINDS])
def test_an_odd_file_is_read_or_in_quarantine_with_its_reason(extracted, side, kind):
    name = clip_id(side, kind)
    record = extracted.quarantined.get((side, name))
    rows = extracted.store.rows(side, extracted.store.clip_ids(side))
    row = dict(zip(extracted.store.clip_ids(side).to_pylist(), rows.tolist(), strict=True)).get(name)
    assert (record is None) != (row is None), "neither read nor left out with a reason, or both"
    if kind.reason is None:
        assert record is None, record
        found = extracted.store.lengths(side)[row]
        assert found == (kind.frames or found) > 0
    else:
        assert record is not None
        assert re.search(kind.reason, record.reason), record
        assert record.file.endswith(f"{name}{kind.suffix}")
