"""What a person gets of a description: card, configuration, page with plots, summary and table."""

from __future__ import annotations

import json
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow.compute as pc
from matplotlib.figure import Figure
from numpy.typing import NDArray

from vavl.config.files import write_json, write_text
from vavl.description.describe import Description
from vavl.description.draft import card_content, card_text
from vavl.errors import ClipError, CorpusError
from vavl.media.media import read_frames
from vavl.media.media_probe import Probed, evenly
from vavl.media.sound import read_audio
from vavl.reports.plots import Plot, new_figure
from vavl.reports.render import write_page
from vavl.reports.theme import LIGHT

_MOST_SHOWN = 8
_COLUMNS = 6
_LONGEST_EDGE_PX = 200
_FRAMES_PER_S = 4.0
_FRAMES_READ = 4
_LONGEST_AUDIO_S = 30.0
_SAMPLE_RATE_HZ = 8000
_WAVE_POINTS = 300


def summary_of(found: Description) -> dict[str, Any]:
    """Return the numbers of a description for summary.json."""
    content = card_content(found.sections)
    seconds = [head.seconds for head in found.probed if head.seconds is not None]
    counts = _clip_counts(found)
    return {
        "corpus": found.name,
        "folder": str(found.root),
        "valid": found.manifest is not None,
        "problem": found.problem,
        "audio_files": len(found.listing.audio),
        "video_files": len(found.listing.video),
        "tables": [entry.file for entry in found.tables],
        "files_named_otherwise": sum(len(names.unmatched) for names in found.layout.modalities),
        "left_out": dict(found.listing.left_out),
        "is_complete": found.listing.is_complete,
        **counts,
        "classes": content.get("classes", []),
        "label_sets": list(content.get("labels", {})),
        "probed_files": len(found.probed),
        "unreadable": [{"file": head.name, "reason": head.problem} for head in found.probed if head.problem],
        "seconds_median": median(seconds) if seconds else None,
        "hours_estimated": sum(seconds) / len(seconds) * counts["clips"] / 3600 if seconds else None,
        "frame_rates_hz": _counted(found, "frame_rate_hz"),
        "sample_rates_hz": _counted(found, "sample_rate_hz"),
        "codings": _counted(found, "coding"),
        "known_cards": [{"card": card.path.name, "clips": card.clips} for card in found.known],
        "decisions": found.decisions,
    }


def summary_rows(summary: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Return the short table for the terminal."""
    hours, seconds = summary["hours_estimated"], summary["seconds_median"]
    single = ", ".join(f"{summary[key]} {key.replace('_', ' ')}" for key in ("audio_only", "video_only"))
    rows: list[tuple[str, Any]] = [
        ("clips", f"{summary['clips']} ({summary['paired_clips']} with audio and video, {single})"),
        ("speakers", summary["speakers"]),
        ("classes", ", ".join(summary["classes"]) or "none found"),
        ("labels", ", ".join(summary["label_sets"]) or "none found"),
        ("length", "unknown" if hours is None else f"median {seconds:.1f} s, about {hours:.1f} h"),
        ("frame rates", _listed(summary["frame_rates_hz"])),
        ("sample rates", _listed(summary["sample_rates_hz"])),
        ("unreadable", f"{len(summary['unreadable'])} of {summary['probed_files']} opened"),
        ("named otherwise", summary["files_named_otherwise"]),
        ("to decide", len(summary["decisions"])),
    ]
    known = summary["known_cards"]
    return rows + [("known card", f"datasets/{one['card']} fits: {one['clips']} clips") for one in known]


def write_results(found: Description, directory: Path, pictured: int) -> dict[str, Any]:
    """Write card.yaml, prepare.yaml, description.html with ``pictured`` clips and summary.json; return it."""
    summary = summary_of(found)
    head = (
        f"Proposed by jobs/describe_corpus.py from the names in {found.root}; every key: datasets/README.md.\n"
        f"{len(found.decisions)} lines begin with DECIDE: look at each, then take the line out."
    )
    write_text(directory / "card.yaml", card_text(found.sections, head))
    write_text(
        directory / "prepare.yaml",
        f"# Features of {found.name}: log-mel spectra of the audio, a descriptor of the face per video frame.\n"
        f"# python jobs/prepare_corpus.py {shlex.quote(str(directory / 'prepare.yaml'))}\n"
        f"output_dir: runs/stores/{found.name}\n"
        f"card: {json.dumps(str(directory / 'card.yaml'), ensure_ascii=False)}\n"
        f"root: {json.dumps(str(found.root.resolve()), ensure_ascii=False)}\n",
    )
    _write_page(found, summary, directory, pictured)
    write_json(directory / "summary.json", summary)
    return summary


def require_valid(found: Description, directory: Path) -> None:
    """Refuse a proposal that gives no manifest; its files lie there to be corrected.

    Raises:
        CorpusError: with the reason why the manifest could not be built.
    """
    if found.manifest is None:
        problem = f"the proposed card does not work yet: {found.problem}"
        fix = "correct the card by hand; description.html shows what was found"
        raise CorpusError(str(directory / "card.yaml"), "", problem, fix)


def _clip_counts(found: Description) -> dict[str, int]:
    if found.manifest is None:
        clips = found.layout.speakers_of_clips()
        single = dict.fromkeys(("paired_clips", "audio_only", "video_only"), 0)
        return {"clips": len(clips), "speakers": len(set(clips.values())), **single}
    rows = found.manifest.table
    has_audio = pc.is_valid(rows["audio_path"])
    has_video = pc.or_(pc.is_valid(rows["video_path"]), pc.is_valid(rows["video_table_key"]))
    return {
        "clips": rows.num_rows,
        "speakers": len(found.manifest.speaker_codes()[1]),
        "paired_clips": pc.sum(pc.and_(has_audio, has_video)).as_py(),
        "audio_only": pc.sum(pc.and_not(has_audio, has_video)).as_py(),
        "video_only": pc.sum(pc.and_not(has_video, has_audio)).as_py(),
    }


def _counted(found: Description, fact: str) -> dict[str, int]:
    values = (getattr(head, fact) for head in found.probed)
    shown = (f"{value:g}" if isinstance(value, float) else str(value) for value in values if value)
    return dict(Counter(shown).most_common(_MOST_SHOWN))


def _listed(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{value} ({count})" for value, count in counts.items()) or "none"


def _write_page(found: Description, summary: Mapping[str, Any], directory: Path, pictured: int) -> None:
    is_video = bool(found.listing.video)
    names = evenly(found.listing.video or found.listing.audio, pictured)
    card = (line for line in card_text(found.sections, "").splitlines() if line.strip("# "))
    write_page(
        directory / "description.html",
        "description/report.html",
        f"The directory {found.root.name}",
        str(found.root),
        found=found,
        summary=summary,
        rows=dict(summary_rows(summary)),
        roles=found.layout.groups(),
        most=_MOST_SHOWN,
        card="\n".join(card),
        clips=[contact_sheet([_preview(found.root, name, is_video=is_video) for name in names])] if names else [],
        lengths=[durations_plot(found.probed)] if summary["seconds_median"] is not None else [],
    )


@dataclass(frozen=True)
class Preview:
    """One clip of a contact sheet: a frame (row, column, RGB), or the wave of its audio, or a problem."""

    name: str
    frame: NDArray[np.uint8] | None = None
    wave: NDArray[np.float32] | None = None
    problem: str = ""


def _preview(root: Path, name: str, *, is_video: bool) -> Preview:
    """Decode the beginning of one clip for the contact sheet."""
    try:
        if is_video:
            return Preview(name, frame=_small_frame(root / name))
        samples = np.abs(read_audio(root / name, _SAMPLE_RATE_HZ, _LONGEST_AUDIO_S))
    except ClipError as error:
        return Preview(name, problem=error.problem)
    parts = np.array_split(samples, min(_WAVE_POINTS, len(samples)))
    return Preview(name, wave=np.array([part.max() for part in parts], np.float32))


def _small_frame(path: Path) -> NDArray[np.uint8] | None:
    """Return one of the first frames, made small: the very first is often black."""
    found = None
    for _, (_, frame) in zip(range(_FRAMES_READ), read_frames(path, _FRAMES_PER_S), strict=False):
        found = frame
    if found is None:
        return None
    step = max(1, -(-max(found.shape[:2]) // _LONGEST_EDGE_PX))
    return found[::step, ::step]


def durations_plot(probed: Sequence[Probed]) -> Plot:
    """Return a histogram of the lengths of the files that were opened."""
    seconds = [head.seconds for head in probed if head.seconds is not None]
    figure, axes = new_figure((6.4, 3.0), layout="constrained")
    axes.hist(seconds, bins=min(40, max(5, len(seconds) // 4)), color=LIGHT.audio_video)
    axes.set_xlabel("seconds")
    axes.set_ylabel("files")
    title = f"{len(seconds)} files in seconds"
    return Plot("durations", f"Lengths of {title}", f"Histogram of {len(seconds)} lengths in seconds.", figure)


def contact_sheet(clips: Sequence[Preview]) -> Plot:
    """Return clips next to each other, each with its name."""
    rows = -(-len(clips) // _COLUMNS)
    figure = Figure(figsize=(2.0 * _COLUMNS, 1.9 * rows), facecolor=LIGHT.surface, layout="constrained")
    all_axes = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    style: dict[str, Any] = {"fontsize": 7, "color": LIGHT.text, "parse_math": False}
    for axes in all_axes:
        axes.set_axis_off()
    for axes, clip in zip(all_axes, clips, strict=False):
        title = clip.name.rpartition("/")[2]
        axes.set_title(title if len(title) < 28 else f"...{title[-25:]}", **style)
        if clip.frame is not None:
            axes.imshow(clip.frame)
        elif clip.wave is not None:
            axes.fill_between(range(len(clip.wave)), clip.wave, -clip.wave, color=LIGHT.audio)
            axes.set_ylim(-1, 1)
        else:
            axes.text(0.5, 0.5, clip.problem[:60], ha="center", wrap=True, **style)
    names = ", ".join(clip.name for clip in clips)
    return Plot("contact_sheet", "Clips from all over the directory", f"The beginning of {names}.", figure)
