"""Checks of what is there at all: counts of the card, unreadable files, clips without a partner."""

from __future__ import annotations

from typing import Any

import numpy as np

from vavl.audit.finding import Check, Finding, State, not_known, state_of
from vavl.audit.material import SPLIT_CODES, Material
from vavl.audit.settings import AuditSettings
from vavl.audit.split_checks import PREPARE_AGAIN
from vavl.features import MODALITIES


def check_counts(material: Material) -> Finding:
    """Compare clips and speakers with those that the card expects, of the corpus or of a declared part."""
    found = {"clips": len(material.manifest), "speakers": len(material.speakers[1])}
    metadata = material.manifest.metadata
    expected: list[dict[str, Any]] = [metadata[key] for key in ("expected", "subset") if metadata.get(key)]
    if not expected:
        return not_known(Check.COUNTS, "the manifest does not hold the card's counts", PREPARE_AGAIN)
    numbers = {"found": found, "expected": expected}
    told = f"{found['clips']:,} clips of {found['speakers']} speakers"
    for counts in expected:
        if {key: counts[key] for key in found} == found:
            part = f", the declared part: {counts['reason']}" if "reason" in counts else ", the whole corpus"
            return Finding(Check.COUNTS, State.PASSED, told + part, numbers=numbers)
    wanted = " or ".join(f"{counts['clips']:,} of {counts['speakers']}" for counts in expected)
    fix = "complete the corpus folder, or declare the part in the card (subset)"
    return Finding(Check.COUNTS, State.WARNING, f"{told}; the card says {wanted}", fix, numbers)


def check_quarantine(material: Material, settings: AuditSettings) -> Finding:
    """Judge the share of files that could not be read."""
    counts = material.features.content.get("counts", {})
    if "quarantined" not in counts:
        return not_known(Check.QUARANTINE, "store.json does not count unreadable files", PREPARE_AGAIN)
    bad = int(counts["quarantined"])
    total = bad + sum(info.clips for info in material.features.info.values())
    share = bad / max(total, 1)
    state = state_of(share, 0, settings.quarantined_failed)
    text = (
        f"{bad} of {total:,} files could not be read ({share:.1%})"
        if bad
        else f"all {total:,} files were read"
    )
    fix = (
        ""
        if state == State.PASSED
        else "repair the files that quarantine.jsonl names and prepare the corpus again"
    )
    numbers = {"quarantined": bad, "files": total, "share": share}
    return Finding(Check.QUARANTINE, state, text, fix, numbers)


def check_partners(material: Material, settings: AuditSettings) -> Finding:
    """Judge the share of clips that have one side only, and find clips that have none."""
    has = {name: material.rows[name] >= 0 for name in material.rows}
    if len(has) < len(MODALITIES):
        name = next(iter(has))
        lost = int((~has[name]).sum())
        text = f"the corpus has {name} alone; {lost} clip(s) lack it"
        state = State.WARNING if lost else State.PASSED
        return Finding(Check.PARTNERS, state, text, "see quarantine.jsonl" if lost else "", {"nothing": lost})
    audio, video = has["audio"], has["video"]
    nothing, either = ~(audio | video), audio | video
    single = audio ^ video
    share = float(single.sum() / max(either.sum(), 1))
    numbers = {
        "paired": int((audio & video).sum()), "audio_only": int((audio & ~video).sum()),
        "video_only": int((video & ~audio).sum()), "nothing": int(nothing.sum()), "share": share,
        "by_split": _pairs_by_split(material, audio & video),
    }  # fmt: skip
    state = state_of(share, settings.unpaired_warning, settings.unpaired_failed)
    if state == State.PASSED and nothing.any():
        state = State.WARNING
    text = (
        f"{numbers['paired']:,} clips have both sides, {numbers['audio_only']} sound alone, "
        f"{numbers['video_only']} picture alone"
    ) + (f", {numbers['nothing']} nothing at all" if nothing.any() else "")
    fix = (
        ""
        if state == State.PASSED
        else "compare the names of the two sides with the card's patterns; see quarantine.jsonl"
    )
    rows = np.concatenate([np.flatnonzero(nothing), np.flatnonzero(single)])[: settings.most_examples]
    examples = tuple(
        {"clip": material.clip(row), "audio": bool(audio[row]), "video": bool(video[row])} for row in rows
    )
    return Finding(Check.PARTNERS, state, text, fix, numbers, examples)


def _pairs_by_split(material: Material, paired: Any) -> dict[str, dict[str, int]]:
    return {
        str(fold): {name: int(paired[split == code].sum()) for name, code in SPLIT_CODES.items()}
        for fold, split in material.splits.items()
    }
