"""Checks of what is there: counts of the card, unreadable files, single modalities, lengths, silence, faces.

Those of the files themselves read the facts of the store.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import (
    PREPARE_AGAIN,
    Check,
    Finding,
    Material,
    State,
    histogram,
    not_known,
    state_of,
    with_unknown,
)
from vavl.audit.settings import AuditSettings
from vavl.features import MODALITIES

_MAD_OF_NORMAL = 1.4826
_OUTLIER_DEVIATIONS = 8  # of the log duration from the median, in robust deviations
_LEAST_DEVIATION = 0.02  # of a log duration; clips of one length would make every other one an outlier
_INSPECT = "look at the clips listed; repair them or leave them out of the corpus"


def check_counts(material: Material) -> Finding:
    """Compare clips and speakers with those that the card expects, of the corpus or of a declared part."""
    found = {"clips": len(material.manifest), "speakers": len(material.speakers[1])}
    metadata = material.manifest.metadata
    expected: list[dict[str, Any]] = [metadata[key] for key in ("expected", "subset") if metadata.get(key)]
    if not expected:
        return not_known(Check.COUNTS, "the manifest does not hold the card's counts", PREPARE_AGAIN)
    numbers = {"found": found, "expected": expected}
    text = f"{found['clips']:,} clips of {found['speakers']} speakers"
    for counts in expected:
        if {key: counts[key] for key in found} == found:
            part = f", the declared part: {counts['reason']}" if "reason" in counts else ", the whole corpus"
            return Finding(Check.COUNTS, State.PASSED, text + part, numbers=numbers)
    wanted = " or ".join(f"{counts['clips']:,} of {counts['speakers']}" for counts in expected)
    fix = "complete the corpus directory, or declare the part in the card (subset)"
    return Finding(Check.COUNTS, State.WARNING, f"{text}; the card says {wanted}", fix, numbers)


def check_quarantine(material: Material, settings: AuditSettings) -> Finding:
    """Judge the share of files that could not be read."""
    counts = material.features.content.get("counts", {})
    if "quarantined" not in counts:
        return not_known(Check.QUARANTINE, "store.json does not count unreadable files", PREPARE_AGAIN)
    bad = int(counts["quarantined"])
    total = bad + sum(info.clips for info in material.features.info.values())
    share = bad / max(total, 1)
    text = f"{bad} of {total:,} files could not be read ({share:.1%})" if bad else f"all {total:,} files were read"
    fix = "repair the files that quarantine.jsonl names and prepare the corpus again"
    numbers = {"quarantined": bad, "files": total, "share": share}
    return Finding(Check.QUARANTINE, state_of(share, 0, settings.quarantined_failed), text, fix, numbers)


def check_partners(material: Material, settings: AuditSettings) -> Finding:
    """Judge the share of clips that have one modality only, and find clips that have none."""
    has = {name: material.rows[name] >= 0 for name in material.rows}
    if len(has) < len(MODALITIES):
        name = next(iter(has))
        lost = int((~has[name]).sum())
        text = f"the corpus has {name} alone; {lost} clip(s) lack it"
        state = State.WARNING if lost else State.PASSED
        return Finding(Check.PARTNERS, state, text, "see quarantine.jsonl", {"nothing": lost})
    audio, video = has["audio"], has["video"]
    nothing, single = ~(audio | video), audio ^ video
    share = float(single.sum() / max((~nothing).sum(), 1))
    numbers = {
        "paired": int((audio & video).sum()),
        "audio_only": int((audio & ~video).sum()),
        "video_only": int((video & ~audio).sum()),
        "nothing": int(nothing.sum()),
        "share": share,
    }
    state = state_of(share, settings.unpaired_warning, settings.unpaired_failed)
    if state == State.PASSED and nothing.any():
        state = State.WARNING
    text = (
        f"{numbers['paired']:,} clips have both modalities, {numbers['audio_only']} audio alone, "
        f"{numbers['video_only']} video alone"
    ) + (f", {numbers['nothing']} nothing at all" if nothing.any() else "")
    fix = "compare the names of the audio and video files with the card's patterns; see quarantine.jsonl"
    rows = np.concatenate([np.flatnonzero(nothing), np.flatnonzero(single)])[: settings.most_examples]
    examples = tuple({"clip": material.clip(row), "audio": bool(audio[row]), "video": bool(video[row])} for row in rows)
    return Finding(Check.PARTNERS, state, text, fix, numbers, examples)


@dataclass(frozen=True)
class _Odd:
    """Which clips stand out, of those that a check knows something of."""

    known: NDArray[np.bool_]  # (clips,), the check could look at it
    odd: NDArray[np.bool_]  # (clips,), it stands out
    degree: NDArray[np.float64]  # (clips,), how much, for the order of the examples
    shown: dict[str, NDArray[np.float64]]  # values of each clip that an example states

    def finding(
        self, material: Material, settings: AuditSettings, check: Check, words: str, limits: tuple[float, float]
    ) -> Finding:
        """Judge the share of odd clips by (warning, failed); the oddest clips are the examples.

        The text is "3 of 1,140 clips <words>".
        """
        known, odd = int(self.known.sum()), int(self.odd.sum())
        order = np.argsort(np.where(self.odd, -self.degree, np.inf), kind="stable")
        examples = tuple(
            {"clip": material.clip(row)}
            | {name: round(float(values[row]), 5) for name, values in self.shown.items() if np.isfinite(values[row])}
            for row in order[: min(odd, settings.most_examples)]
        )
        numbers = {"known": known, "odd": odd, "share": odd / max(known, 1)}
        text = f"{odd} of {known:,} clips {words}"
        state = state_of(numbers["share"], *limits)
        return Finding(check, state, text, _INSPECT, numbers, examples)

    def finding_of_one(
        self, material: Material, finding: Finding, modality: str, values: NDArray[np.float64], most: float = 1.0
    ) -> Finding:
        """Return the finding with the histogram of ``values`` up to ``most``, and the clips whose file is unknown."""
        numbers = {"histogram": {modality: histogram(values, span=(0.0, most))}}
        unknown = int(((material.rows[modality] >= 0) & ~self.known).sum())
        return with_unknown(finding.with_numbers(numbers), unknown)


def check_durations(material: Material, settings: AuditSettings) -> Finding:
    """Find clips that are very short, very long, or far from the others."""
    seconds = {name: material.fact(name, "seconds") for name in MODALITIES}
    longest = np.fmax(*(seconds[name] for name in MODALITIES))
    known = np.isfinite(longest)
    if not known.any():
        return _unknown(Check.DURATIONS, material, "the length of the files")
    limits = settings.media
    log = np.log(np.maximum(longest, 1e-3))
    middle = float(np.median(log[known]))
    deviation = max(_MAD_OF_NORMAL * float(np.median(np.abs(log[known] - middle))), _LEAST_DEVIATION)
    away = np.abs(log - middle) / deviation
    kinds = {
        "short": known & (longest < limits.shortest_s),
        "long": known & (longest > limits.longest_s),
        "outliers": known & (away > _OUTLIER_DEVIATIONS),
    }
    numbers: dict[str, Any] = {name: int(rows.sum()) for name, rows in kinds.items()} | {
        "median_s": float(np.exp(middle)),
        "shortest_s": float(np.nanmin(longest)),
        "longest_s": float(np.nanmax(longest)),
        "hours": float(np.nansum(longest) / 3600),
        "histogram": {name: histogram(values) for name, values in seconds.items() if np.isfinite(values).any()},
    }
    found = _Odd(known, np.logical_or.reduce(list(kinds.values())), away, {"seconds": longest})
    words = (
        f"of odd length; {numbers['shortest_s']:.2f} to {numbers['longest_s']:.2f} s, "
        f"median {numbers['median_s']:.2f} s, {numbers['hours']:.2f} h in all"
    )
    judged = found.finding(material, settings, Check.DURATIONS, words, (0, limits.odd_durations_failed))
    return with_unknown(judged.with_numbers(numbers), int((~known).sum()))


def check_side_lengths(material: Material, settings: AuditSettings) -> Finding:
    """Find clips whose audio and video differ in length."""
    if len(material.decoded) < len(MODALITIES):
        text = "not both modalities of the clips are media files: nothing to compare"
        return Finding(Check.SIDE_LENGTHS, State.PASSED, text)
    audio, video = (material.fact(name, "seconds") for name in MODALITIES)
    known = np.isfinite(audio) & np.isfinite(video)
    if not known.any():
        return _unknown(Check.SIDE_LENGTHS, material, "the lengths of both modalities")
    limits = settings.media
    difference = np.where(known, np.abs(audio - video), 0.0)
    allowed = np.maximum(limits.side_difference_s, limits.side_difference_share * np.fmax(audio, video))
    found = _Odd(known, known & (difference > allowed), difference, {"audio_s": audio, "video_s": video})
    largest = float(difference.max())
    words = f"differ by more than allowed; the largest difference is {largest:.2f} s"
    judged = found.finding(material, settings, Check.SIDE_LENGTHS, words, (0, limits.side_difference_failed))
    paired = (material.rows["audio"] >= 0) & (material.rows["video"] >= 0)
    return with_unknown(judged.with_numbers({"largest_s": largest}), int((paired & ~known).sum()))


def check_silence(material: Material, settings: AuditSettings) -> Finding:
    """Find clips without sound in their audio."""
    if "audio" not in material.features.info:
        return Finding(Check.SILENCE, State.PASSED, "the corpus has no audio")
    peak, silence = material.fact("audio", "peak"), material.fact("audio", "silence_share")
    known = np.isfinite(peak) & np.isfinite(silence)
    if not known.any():
        return _unknown(Check.SILENCE, material, "peak and silence of the audio")
    limits = settings.media
    is_silent = (peak <= 10 ** (limits.silent_peak_dbfs / 20)) | (silence >= limits.silent_share)
    found = _Odd(known, known & is_silent, silence, {"peak": peak, "silence_share": silence})
    words = f"are silent; silence takes {np.nanmean(silence):.0%} of the time on average"
    judged = found.finding(material, settings, Check.SILENCE, words, (0, limits.silent_failed))
    return found.finding_of_one(material, judged, "audio", silence)


def check_clipping(material: Material, settings: AuditSettings) -> Finding:
    """Find clips many of whose samples are at full scale."""
    if "audio" not in material.features.info:
        return Finding(Check.CLIPPING, State.PASSED, "the corpus has no audio")
    clipped = material.fact("audio", "clipped_share")
    known = np.isfinite(clipped)
    if not known.any():
        return _unknown(Check.CLIPPING, material, "the share of samples at full scale")
    limits = settings.media
    found = _Odd(known, known & (clipped > limits.clipped_share), clipped, {"clipped_share": clipped})
    words = f"have more than {limits.clipped_share:.1%} of their samples at full scale"
    judged = found.finding(material, settings, Check.CLIPPING, words, (0, limits.clipped_failed))
    most = max(2 * limits.clipped_share, float(np.nanmax(clipped)), 1e-6)
    return found.finding_of_one(material, judged, "audio", clipped, most)


def check_faces(material: Material, settings: AuditSettings) -> Finding:
    """Find clips in which few frames show a face."""
    if "video" not in material.features.info:
        return Finding(Check.FACES, State.PASSED, "the corpus has no video")
    if "video" not in material.decoded:
        text = "no video was decoded: it is a table of ready features"
        return Finding(Check.FACES, State.PASSED, text)
    faces = material.fact("video", "face_share")
    known = np.isfinite(faces)
    if not known.any():
        return _unknown(Check.FACES, material, "the share of frames with a face")
    limits = settings.media
    missing = 1 - faces
    found = _Odd(known, known & (missing > limits.faceless_frames), missing, {"face_share": faces})
    words = (
        f"have no face in more than {limits.faceless_frames:.0%} of their frames; {np.nanmean(missing):.1%} of the "
        "frames of a clip on average"
    )
    allowed = (limits.faceless_warning, limits.faceless_failed)
    judged = found.finding(material, settings, Check.FACES, words, allowed)
    return found.finding_of_one(material, judged, "video", faces)


def _unknown(check: Check, material: Material, what: str) -> Finding:
    missing = "the store has no facts.arrow" if material.facts is None else f"its facts do not hold {what}"
    return not_known(check, missing, PREPARE_AGAIN)
