"""Checks of the files themselves: durations, silence, clipping, faces. They read the facts of the store."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vavl.audit.finding import Check, Finding, State, not_known, state_of, with_unknown
from vavl.audit.material import Material, histogram
from vavl.audit.settings import AuditSettings
from vavl.audit.split_checks import PREPARE_AGAIN
from vavl.features import MODALITIES

_MAD_OF_NORMAL = 1.4826
_LEAST_DEVIATION = 0.02  # of a log duration; clips of one length would make every other one an outlier
_ONE_SHARE = (0.0, 1.0)
_LOOK = "look at the clips listed; repair them or leave them out of the corpus"


@dataclass(frozen=True)
class _Odd:
    """Which clips stand out, of those that a check knows something of.

    Attributes:
        known: (clips,), the check could look at it.
        odd: (clips,), it stands out.
        degree: (clips,), how much, for the order of the examples.
        shown: values of each clip that an example states.
    """

    known: NDArray[np.bool_]
    odd: NDArray[np.bool_]
    degree: NDArray[np.float64]
    shown: dict[str, NDArray[np.float64]]

    @property
    def share(self) -> float:
        """Of the known clips."""
        return float(self.odd.sum() / max(self.known.sum(), 1))

    def told(self, words: str) -> str:
        """Return "3 of 1,140 clips <words>"."""
        return f"{int(self.odd.sum())} of {int(self.known.sum()):,} clips {words}"

    def finding(
        self,
        material: Material,
        settings: AuditSettings,
        check: Check,
        text: str,
        limits: tuple[float, float],
    ) -> Finding:
        """Judge the share of odd clips by (warning, failed); the oddest clips are the examples."""
        state = state_of(self.share, *limits)
        order = np.argsort(np.where(self.odd, -self.degree, np.inf), kind="stable")
        examples = tuple(
            {"clip": material.clip(row)}
            | {name: round(float(values[row]), 5) for name, values in self.shown.items() if np.isfinite(values[row])}
            for row in order[: min(int(self.odd.sum()), settings.most_examples)]
        )  # fmt: skip
        numbers = {"known": int(self.known.sum()), "odd": int(self.odd.sum()), "share": self.share}
        return Finding(check, state, text, "" if state == State.PASSED else _LOOK, numbers, examples)


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
        "outliers": known & (away > limits.duration_outlier_deviations),
    }
    found = _Odd(known, np.logical_or.reduce(list(kinds.values())), away, {"seconds": longest})
    hours = float(np.nansum(longest) / 3600)
    text = found.told(
        f"of odd length; {np.nanmin(longest):.2f} to {np.nanmax(longest):.2f} s, median {np.exp(middle):.2f} s, "
        f"{hours:.2f} h in all"
    )
    numbers = {
        **{name: int(rows.sum()) for name, rows in kinds.items()},
        "median_s": float(np.exp(middle)), "shortest_s": float(np.nanmin(longest)),
        "longest_s": float(np.nanmax(longest)), "hours": hours,
        "histogram": {name: histogram(values) for name, values in seconds.items() if np.isfinite(values).any()},
    }  # fmt: skip
    judged = found.finding(material, settings, Check.DURATIONS, text, (0, limits.odd_durations_failed))
    return with_unknown(judged.with_numbers(numbers), int((~known).sum()))


def check_side_lengths(material: Material, settings: AuditSettings) -> Finding:
    """Find clips whose sound and picture differ in length."""
    if len(material.decoded) < len(MODALITIES):
        text = "not both sides of the clips are media files: nothing to compare"
        return Finding(Check.SIDE_LENGTHS, State.PASSED, text)
    audio, video = (material.fact(name, "seconds") for name in MODALITIES)
    known = np.isfinite(audio) & np.isfinite(video)
    if not known.any():
        return _unknown(Check.SIDE_LENGTHS, material, "the lengths of both sides")
    limits = settings.media
    difference = np.where(known, np.abs(audio - video), 0.0)
    allowed = np.maximum(limits.side_difference_s, limits.side_difference_share * np.fmax(audio, video))
    found = _Odd(known, known & (difference > allowed), difference, {"audio_s": audio, "video_s": video})
    text = found.told(f"differ by more than allowed; the largest difference is {difference.max():.2f} s")
    paired = (material.rows["audio"] >= 0) & (material.rows["video"] >= 0)
    judged = found.finding(material, settings, Check.SIDE_LENGTHS, text, (0, limits.side_difference_failed))
    return with_unknown(
        judged.with_numbers({"largest_s": float(difference.max())}), int((paired & ~known).sum())
    )


def check_silence(material: Material, settings: AuditSettings) -> Finding:
    """Find clips without sound in their audio."""
    if "audio" not in material.features.info:
        return Finding(Check.SILENCE, State.PASSED, "the corpus has no sound")
    peak, silence = material.fact("audio", "peak"), material.fact("audio", "silence_share")
    known = np.isfinite(peak) & np.isfinite(silence)
    if not known.any():
        return _unknown(Check.SILENCE, material, "peak and silence of the sound")
    limits = settings.media
    is_silent = (peak <= 10 ** (limits.silent_peak_dbfs / 20)) | (silence >= limits.silent_share)
    found = _Odd(known, known & is_silent, silence, {"peak": peak, "silence_share": silence})
    text = found.told(f"are silent; silence takes {np.nanmean(silence):.0%} of the time on average")
    judged = found.finding(material, settings, Check.SILENCE, text, (0, limits.silent_failed))
    return _of_one_side(material, judged, "audio", silence, known, _ONE_SHARE)


def check_clipping(material: Material, settings: AuditSettings) -> Finding:
    """Find clips many of whose samples are at full scale."""
    if "audio" not in material.features.info:
        return Finding(Check.CLIPPING, State.PASSED, "the corpus has no sound")
    clipped = material.fact("audio", "clipped_share")
    known = np.isfinite(clipped)
    if not known.any():
        return _unknown(Check.CLIPPING, material, "the share of samples at full scale")
    limits = settings.media
    found = _Odd(known, known & (clipped > limits.clipped_share), clipped, {"clipped_share": clipped})
    text = found.told(f"have more than {limits.clipped_share:.1%} of their samples at full scale")
    judged = found.finding(material, settings, Check.CLIPPING, text, (0, limits.clipped_failed))
    span = (0.0, max(2 * limits.clipped_share, float(np.nanmax(clipped)), 1e-6))
    return _of_one_side(material, judged, "audio", clipped, known, span)


def check_faces(material: Material, settings: AuditSettings) -> Finding:
    """Find clips in which few frames show a face."""
    if "video" not in material.features.info:
        return Finding(Check.FACES, State.PASSED, "the corpus has no pictures")
    if "video" not in material.decoded:
        text = "no pictures were decoded: the video is a table of ready features"
        return Finding(Check.FACES, State.PASSED, text)
    faces = material.fact("video", "face_share")
    known = np.isfinite(faces)
    if not known.any():
        return _unknown(Check.FACES, material, "the share of frames with a face")
    limits = settings.media
    missing = 1 - faces
    found = _Odd(known, known & (missing > limits.faceless_frames), missing, {"face_share": faces})
    text = found.told(
        f"have no face in more than {limits.faceless_frames:.0%} of their frames; {np.nanmean(missing):.1%} of the "
        "frames of a clip on average"
    )
    allowed = (limits.faceless_warning, limits.faceless_failed)
    judged = found.finding(material, settings, Check.FACES, text, allowed)
    return _of_one_side(material, judged, "video", faces, known, _ONE_SHARE)


def _of_one_side(
    material: Material,
    finding: Finding,
    modality: str,
    values: NDArray[np.float64],
    known: NDArray[np.bool_],
    span: tuple[float, float],
) -> Finding:
    """Return the finding with the values' histogram, and with the clips whose file is unknown."""
    numbers: dict[str, Any] = {"histogram": {modality: histogram(values, span=span)}}
    unknown = int(((material.rows[modality] >= 0) & ~known).sum())
    return with_unknown(finding.with_numbers(numbers), unknown)


def _unknown(check: Check, material: Material, what: str) -> Finding:
    missing = "the store has no facts.arrow" if material.facts is None else f"its facts do not hold {what}"
    return not_known(check, missing, PREPARE_AGAIN)
