"""Checks of the labels of one label set: their balance, how label sets agree, and the leak canary.

The canary: what is known of a clip besides its audio and video must not tell its label. Two probes without a
network: speaker and sentence alone must score at chance on the test clips; and the label of a batch-mate must not
tell the own one, as it does where batches come in file-name order. That a network trained on such features scores
at chance is tested with the network.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import scipy.sparse
from numpy.typing import NDArray

from vavl.audit.finding import (
    CHANCE_DEVIATIONS,
    SPLIT_CODES,
    Check,
    Example,
    Finding,
    Material,
    State,
    above_chance,
    state_of,
)
from vavl.audit.settings import AuditSettings
from vavl.corpora.manifest import TEST, TRAIN
from vavl.data.collection import ATTRIBUTES
from vavl.data.partitions import CompositionSettings, compose_batch, partition_clips
from vavl.data.protocol import clip_classes
from vavl.data.sampler import Sampler
from vavl.features import MODALITIES

_RIDGE = 1.0
_SEED = 0
_BATCH_CLIPS = 20_000  # clips drawn into batches, over several passes


def check_label_balance(material: Material, settings: AuditSettings) -> Finding:
    """Count the classes of every split; a class without a clip there, or a constant attribute, fails."""
    classes = clip_classes(material.manifest)
    if (classes >= 0).any():
        return _class_balance(material, settings, classes)
    attributes = attribute_columns(material)
    if attributes:
        return _attribute_spread(material, attributes)
    fix = "a corpus without labels can only be added to one that has some"
    return Finding(Check.LABEL_BALANCE, State.WARNING, "no clip has a label", fix)


def check_label_sets(material: Material) -> Finding:
    """State what the label sets say of each other; they may well differ, so this never fails.

    ``numbers`` are those of ``vavl.corpora.label_agreement.label_facts_of``.
    """
    # scikit-learn comes with it, and every training run reads this file without ever checking labels.
    from vavl.corpora.label_agreement import label_facts_of

    facts = label_facts_of(material.manifest)
    shares = ((pair, 100 * pair["equal"] / pair["clips"]) for pair in facts["agreements"])
    pairs = [
        f"{pair['one']} and {pair['other']} agree in {share:.1f} % of {pair['clips']:,} clips" for pair, share in shares
    ]
    text = "; ".join(pairs) or f"{max(len(facts['sets']), 1)} label set(s), none to compare"
    return Finding(Check.LABEL_SETS, State.PASSED, text, numbers=facts)


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
        fix = "choose other validation or test speakers in the card, merge classes, or choose another label set"
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
    means = ", ".join(
        f"{name} {np.nanmean(values):.2f} ± {np.nanstd(values):.2f}" for name, values in attributes.items()
    )
    return Finding(Check.LABEL_BALANCE, State.PASSED, f"attributes vary in every split: {means}", numbers=numbers)


def check_identity(material: Material, settings: AuditSettings) -> Finding:
    """Predict the class of the test clips from speaker, sex and sentence alone, by ridge regression."""
    limits = settings.leaks
    classes = clip_classes(material.manifest)
    if not (classes >= 0).any():
        return Finding(Check.IDENTITY_CANARY, State.PASSED, "no classes to predict")
    columns = ["speaker", "sex", *(f"group_{name}" for name in limits.identity_groups)]
    known = [name for name in columns if material.text_column(name) is not None]
    codes = _one_hot(material, known)
    scores: list[Example] = []
    for fold, split in material.splits.items():
        train, test = ((split == code) & (classes >= 0) for code in (TRAIN, TEST))
        if train.any() and test.any():
            recall, chance, deviation = identity_recall(codes, classes, train, test)
            excess = above_chance(recall, chance, deviation)
            found = {"recall": recall, "chance": chance, "excess": excess}
            scores.append({"fold": fold, **{name: round(value, 4) for name, value in found.items()}})
    what = " and ".join(name.removeprefix("group_") for name in known)
    if not scores:
        text = "no fold has labeled clips to train and to test on"
        return Finding(Check.IDENTITY_CANARY, State.WARNING, text, "see label_balance", is_known=False)
    worst = max(scores, key=lambda score: float(score["excess"]))
    state = state_of(worst["excess"], limits.identity_warning, limits.identity_failed)
    text = (
        f"{what} alone give a recall of {worst['recall']:.1%} on test, chance is {worst['chance']:.1%} "
        f"(fold {worst['fold']}, the highest of {len(scores)})"
    )
    fix = "classes are not spread evenly over speakers or sentences: balance them, or report this next to the scores"
    return Finding(Check.IDENTITY_CANARY, state, text, fix, {"known": known, "scores": scores})


def identity_recall(
    codes: scipy.sparse.csr_matrix, classes: NDArray[np.integer], train: NDArray[np.bool_], test: NDArray[np.bool_]
) -> tuple[float, float, float]:
    """Train ridge regression on what identifies a clip, and return mean recall, chance and its deviation.

    ``codes`` (clips, columns) are one-hot; ``classes`` (clips,) are not negative where ``train`` or ``test`` is True.
    """
    names, target = np.unique(classes[train], return_inverse=True)
    size = np.bincount(target)
    # Every class weighs the same: what is known of nothing predicts no class more than another.
    weight = scipy.sparse.diags(len(target) / (len(names) * size[target]))
    wanted = np.eye(len(names))[target] - 1 / len(names)
    inputs = codes[train]
    gram = (inputs.T @ weight @ inputs).toarray() + _RIDGE * np.eye(codes.shape[1])
    solved = np.linalg.solve(gram, inputs.T @ (weight @ wanted))
    predicted = names[np.argmax(codes[test] @ solved, axis=1)]
    there = np.unique(classes[test])
    recalls = [float((predicted[classes[test] == name] == name).mean()) for name in there]
    counts = np.array([(classes[test] == name).sum() for name in there])
    chance = 1 / len(names)
    deviation = float(np.sqrt((chance * (1 - chance) / counts).sum()) / len(there))
    return float(np.mean(recalls)), chance, deviation


def check_batches(material: Material, settings: AuditSettings) -> Finding:
    """Draw batches as a training run does, and predict every label from that of a batch-mate."""
    limits = settings.leaks
    classes = clip_classes(material.manifest)
    scores: list[Example] = []
    for fold, split in material.splits.items():
        has_any = np.logical_or.reduce([rows >= 0 for rows in material.rows.values()])
        rows = np.flatnonzero((split == TRAIN) & has_any).astype(np.int64)
        if (classes[rows] >= 0).any():
            drawn = _sampled(material, classes, rows, limits.batch_size, _BATCH_CLIPS)
            scores.append({"fold": fold, **batch_agreement(classes, drawn)})
    if not scores:
        return Finding(Check.BATCH_CANARY, State.PASSED, "no labeled training clips")
    worst = max(scores, key=lambda score: max(score["mate"], score["neighbour"]))
    agreement = max(worst["mate"], worst["neighbour"])
    is_chance = agreement < CHANCE_DEVIATIONS * worst["deviation"]
    state = State.PASSED if is_chance else state_of(agreement, limits.batch_warning, limits.batch_failed)
    # The kappa of each label with the one before it in the order of clip ids.
    file_order = batch_agreement(classes, [np.arange(len(classes))])["neighbour"]
    text = (
        f"a clip's label agrees with those of its batch-mates by kappa {worst['mate']:.3f}, with the one next to it by "
        f"{worst['neighbour']:.3f} (0 is chance; in file-name order it would be {file_order:.2f})"
    )
    fix = "clips of a class are alike in length: set a larger composition.batch_size"
    return Finding(Check.BATCH_CANARY, state, text, fix, {"scores": scores, "file_order": file_order})


def batch_agreement(classes: NDArray[np.integer], batches: Iterable[NDArray[np.int64]]) -> dict[str, float]:
    """Say how far the label of a batch-mate tells the own one.

    ``classes`` (clips,) are codes, -1 without label; ``batches`` the clips of each batch in their order.

    Returns:
        ``mate`` (any other clip of the batch) and ``neighbour`` (the clip next to it) as kappa:
        (share of equal labels - share by chance) / (1 - share by chance); 0 is chance, 1 certainty. A clip
        that a batch holds twice is no mate of itself. ``deviation`` is that of kappa where labels are drawn
        by chance for so many clips.
    """
    seen = np.zeros(len(classes), np.bool_)
    totals = np.zeros(int(classes.max()) + 1)
    equal = {"mate": 0.0, "neighbour": 0.0}
    pairs = {"mate": 0.0, "neighbour": 0.0}
    for rows in batches:
        clips = rows[classes[rows] >= 0]
        labels = classes[clips]
        seen[clips] = True
        counts = np.bincount(labels, minlength=len(totals))
        totals += counts
        itself = np.unique(clips, return_counts=True)[1]
        same_clip = int((itself * (itself - 1)).sum())
        equal["mate"] += float((counts * (counts - 1)).sum()) - same_clip
        pairs["mate"] += len(clips) * (len(clips) - 1) - same_clip
        are_two = clips[1:] != clips[:-1]
        equal["neighbour"] += float(((labels[1:] == labels[:-1]) & are_two).sum())
        pairs["neighbour"] += float(are_two.sum())
    chance = float(np.square(totals / max(totals.sum(), 1)).sum())
    other = max(1 - chance, 1e-9)
    found = {name: round((equal[name] / max(pairs[name], 1) - chance) / other, 4) for name in equal}
    return {**found, "deviation": round(float(np.sqrt(chance / other / max(seen.sum(), 1))), 4)}


def _one_hot(material: Material, columns: list[str]) -> scipy.sparse.csr_matrix:
    """Return (clips, values of all columns), 1 where the clip has the value; unknown values are zeros."""
    parts = []
    for name in columns:
        column = material.text_column(name)
        assert column is not None
        indices = column.combine_chunks().dictionary_encode().indices
        known = np.asarray(indices.is_valid())
        values = indices.fill_null(0).to_numpy(zero_copy_only=False)[known]
        shape = (len(column), int(values.max()) + 1)
        parts.append(scipy.sparse.csr_matrix((np.ones(len(values)), (np.flatnonzero(known), values)), shape))
    return scipy.sparse.hstack(parts, format="csr")


def _sampled(
    material: Material, classes: NDArray[np.integer], rows: NDArray[np.int64], batch_size: int, clips: int
) -> Iterator[NDArray[np.int64]]:
    """Draw global batches from the training clips as the default settings compose them."""
    nowhere = np.full(len(classes), -1, np.int32)
    has = {name: material.rows.get(name, nowhere) >= 0 for name in MODALITIES}
    partitioned = partition_clips(rows, has["audio"], has["video"], classes >= 0)
    size = max(batch_size, len(partitioned.clips))
    composition = compose_batch(partitioned, CompositionSettings(batch_size=size))
    sampler = Sampler(partitioned.clips, composition, _lengths(material).take, _SEED)
    for step in range(-(-clips // size)):
        yield sampler.global_batch(step)


def _lengths(material: Material) -> NDArray[np.int32]:
    """Return frames per clip, the longer of its modalities, as a training run sorts them."""
    longest = np.zeros(len(material.manifest), np.int32)
    for name, rows in material.rows.items():
        frames = material.features.lengths(name)[np.maximum(rows, 0)]
        longest = np.maximum(longest, np.where(rows >= 0, frames, 0))
    return longest
