"""Checks of the labels of one label set, and of how the label sets agree."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import Check, Example, Finding, State
from vavl.audit.material import SPLIT_CODES, Material
from vavl.audit.settings import AuditSettings
from vavl.data.collection import ATTRIBUTES
from vavl.data.protocol import clip_classes


def check_label_balance(material: Material, settings: AuditSettings) -> Finding:
    """Count the classes of every split; a class without a clip there, or a constant attribute, fails."""
    classes = clip_classes(material.manifest)
    if (classes >= 0).any():
        return _class_balance(material, settings, classes)
    attributes = attribute_columns(material)
    if attributes:
        return _attribute_spread(material, attributes)
    return Finding(
        Check.LABEL_BALANCE, State.WARNING, "no clip has a label",
        "a corpus without labels can only be added to one that has some",
    )  # fmt: skip


def check_label_sets(material: Material) -> Finding:
    """State what the label sets say of each other; they may well differ, so this never fails.

    ``numbers`` holds ``vavl.corpora.label_agreement.LabelFacts``: sets, agreements, yard-sticks, folds.
    """
    # scikit-learn comes with it, and every training reads this file without ever checking labels.
    from vavl.corpora.label_agreement import label_facts_of

    facts = label_facts_of(material.manifest)
    pairs = [
        f"{pair.one} and {pair.other} agree in {pair.percent:.1f} % of {pair.clips:,} clips"
        for pair in facts.agreements
    ]
    text = "; ".join(pairs) or f"{max(len(facts.sets), 1)} label set(s), none to compare"
    return Finding(Check.LABEL_SETS, State.PASSED, text, numbers=_with_text_keys(asdict(facts)))


def attribute_columns(material: Material) -> dict[str, NDArray[np.float64]]:
    """Return the attributes that any clip has, NaN where a clip has none."""
    found = {}
    for name in ATTRIBUTES:
        column = material.text_column(name)
        if column is not None:
            found[name] = np.asarray(column.to_numpy(), np.float64)
    return found


def _class_balance(material: Material, settings: AuditSettings, classes: NDArray[np.int16]) -> Finding:
    names = material.manifest.classes
    missing: list[Example] = []
    uneven: list[Example] = []
    counts: dict[str, dict[str, list[int]]] = {}
    for fold, split in material.splits.items():
        counts[str(fold)] = {}
        for name, code in SPLIT_CODES.items():
            found = np.bincount(classes[(split == code) & (classes >= 0)], minlength=len(names))
            counts[str(fold)][name] = found.tolist()
            lost = [names[place] for place in np.flatnonzero(found == 0)]
            if lost:
                missing.append({"fold": fold, "split": name, "missing": lost})
            elif found.max() > settings.class_ratio_warning * found.min():
                rarest, ratio = names[int(found.argmin())], float(found.max() / found.min())
                uneven.append({"fold": fold, "split": name, "rarest": rarest, "ratio": round(ratio, 1)})
    numbers = {"classes": list(names), "labelled": int((classes >= 0).sum()), "counts": counts}
    examples = tuple([*missing, *uneven][: settings.most_examples])
    if missing:
        first = missing[0]
        text = (
            f"{len(missing)} split(s) without a clip of some class, e.g. {first['split']} of fold {first['fold']} "
            f"has no {', '.join(first['missing'])}"
        )
        fix = (
            "choose other validation or test speakers in the card, merge classes, or choose another label set"
        )
        return Finding(Check.LABEL_BALANCE, State.FAILED, text, fix, numbers, examples)
    total = np.bincount(classes[classes >= 0], minlength=len(names))
    shares = ", ".join(f"{name} {count}" for name, count in zip(names, total.tolist(), strict=True))
    if uneven:
        worst = max(uneven, key=lambda example: example["ratio"])
        text = (
            f"classes are uneven: {worst['ratio']:g} to 1 in {worst['split']} of fold {worst['fold']}, fewest "
            f"{worst['rarest']}; all clips: {shares}"
        )
        fix = "judge by UAR or macro F1, not by accuracy"
        return Finding(Check.LABEL_BALANCE, State.WARNING, text, fix, numbers, examples)
    text = f"every class is in every split; all clips: {shares}"
    return Finding(Check.LABEL_BALANCE, State.PASSED, text, numbers=numbers)


def _attribute_spread(material: Material, attributes: dict[str, NDArray[np.float64]]) -> Finding:
    flat: list[Example] = []
    spread: dict[str, Any] = {}
    for fold, split in material.splits.items():
        for name, code in SPLIT_CODES.items():
            for attribute, values in attributes.items():
                known = values[(split == code) & np.isfinite(values)]
                deviation = float(known.std()) if len(known) else 0.0
                spread.setdefault(str(fold), {}).setdefault(name, {})[attribute] = round(deviation, 4)
                if deviation == 0:
                    flat.append({"fold": fold, "split": name, "attribute": attribute, "clips": len(known)})
    numbers = {"deviation": spread, "labelled": int(np.isfinite(next(iter(attributes.values()))).sum())}
    if flat:
        first = flat[0]
        place = f"{first['split']} of fold {first['fold']}"
        text = f"{first['attribute']} does not vary in {place} ({first['clips']} clips)"
        fix = "choose other validation or test speakers in the card, or another label set"
        return Finding(Check.LABEL_BALANCE, State.FAILED, text, fix, numbers, tuple(flat))
    told = ", ".join(
        f"{name} {np.nanmean(values):.2f} ± {np.nanstd(values):.2f}" for name, values in attributes.items()
    )
    return Finding(
        Check.LABEL_BALANCE, State.PASSED, f"attributes vary in every split: {told}", numbers=numbers
    )


def _with_text_keys(value: Any) -> Any:
    """Return nested values as JSON has them."""
    if isinstance(value, dict):
        return {str(key): _with_text_keys(item) for key, item in value.items()}
    return [_with_text_keys(item) for item in value] if isinstance(value, list | tuple) else value
