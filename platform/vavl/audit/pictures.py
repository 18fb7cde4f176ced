"""Pictures of an audit: classes per split, durations, silence, clipping, faces, nearest neighbours."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from vavl.audit.audit import Audit
from vavl.audit.finding import Check, Finding
from vavl.reports.pictures import Picture, legend_below, themed_figure
from vavl.reports.theme import CONDITION_TITLES, Theme

_SIZE = (5.6, 3.4)
_MANY_CLASSES = 6
_HISTOGRAMS = {
    Check.DURATIONS: ("seconds", "durations of the clips"),
    Check.SILENCE: ("share of silence", "silence in each clip"),
    Check.CLIPPING: ("share of samples at full scale", "clipping in each clip"),
    Check.FACES: ("share of frames with a face", "faces in each clip"),
}


def audit_pictures(audit: Audit) -> Iterator[Picture]:
    """Yield the pictures that the findings allow; what is not known has none."""
    for finding in audit.findings:
        if "classes" in finding.numbers:
            yield from _class_pictures(finding)
        if "histogram" not in finding.numbers:
            continue
        if finding.check == Check.NEAR_DUPLICATES:
            yield from _neighbour_pictures(finding)
        else:
            label, caption = _HISTOGRAMS[finding.check]
            yield _histogram_picture(finding.check.value, finding.numbers["histogram"], label, caption)


def classes_figure(counts: Mapping[str, Sequence[int]], classes: Sequence[str], theme: Theme) -> Figure:
    """Draw the share of each class in every split: bars of one colour belong to one split."""
    figure, axes = themed_figure(theme, (max(_SIZE[0], 0.8 * len(classes)), _SIZE[1]))
    width = 0.8 / len(counts)
    for place, (split, found) in enumerate(counts.items()):
        share = 100 * np.asarray(found) / max(sum(found), 1)
        left = np.arange(len(classes)) + (place - (len(counts) - 1) / 2) * width
        axes.bar(left, share, 0.9 * width, color=theme.series[place], label=f"{split}, {sum(found):,} clips")
    tilt = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"} if len(classes) > _MANY_CLASSES else {}
    axes.set_xticks(np.arange(len(classes)), classes, **tilt)
    axes.set_ylabel("clips of the split (%)")
    _finish(axes, theme)
    return figure


def histogram_figure(parts: Mapping[str, Mapping[str, Any]], label: str, theme: Theme) -> Figure:
    """Draw histograms over each other; several ones as shares of their own clips."""
    figure, axes = themed_figure(theme, _SIZE)
    for place, (name, part) in enumerate(parts.items()):
        counts = np.asarray(part["counts"], float)
        heights = 100 * counts / max(counts.sum(), 1) if len(parts) > 1 else counts
        colour = theme.of_condition(name) if name in CONDITION_TITLES else theme.series[place]
        axes.stairs(heights, part["edges"], color=colour, fill=True, alpha=0.35)
        axes.stairs(
            heights, part["edges"], color=colour, linewidth=1.5, label=f"{name}, {int(counts.sum()):,} clips"
        )
    axes.set_xlabel(label)
    axes.set_ylabel("clips (%)" if len(parts) > 1 else "clips")
    _finish(axes, theme)
    return figure


def _class_pictures(finding: Finding) -> Iterator[Picture]:
    fold, counts = next(iter(finding.numbers["counts"].items()))
    several = len(finding.numbers["counts"]) > 1
    yield Picture(
        "classes" + (f"_{finding.labels}" if finding.labels else ""),
        finding.title + (f", fold {fold} (the others are in the table)" if several else ""),
        "Bars of the share of each class in training, validation and test",
        partial(classes_figure, counts, finding.numbers["classes"]),
    )


def _neighbour_pictures(finding: Finding) -> Iterator[Picture]:
    for modality, parts in finding.numbers["histogram"].items():
        caption = f"{modality}: a test clip left of all training clips would be a copy"
        label = "cosine distance to the nearest training clip"
        yield _histogram_picture(f"neighbours_{modality}", parts, label, caption)


def _histogram_picture(
    name: str, parts: Mapping[str, Mapping[str, Any]], label: str, caption: str
) -> Picture:
    return Picture(name, caption, f"Histogram: {label}", partial(histogram_figure, parts, label))


def _finish(axes: Any, theme: Theme) -> None:
    axes.grid(axis="y", color=theme.line, linewidth=0.8)
    legend_below(axes, theme, columns=3)
