"""What a person gets of a description: card, configuration, page, summary and table."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from statistics import median
from typing import Any

import pyarrow.compute as pc

from vavl.config.files import write_json, write_text
from vavl.description.describe import Description
from vavl.description.draft import card_content, card_text
from vavl.description.pictures import contact_sheet, durations_picture, look
from vavl.errors import CorpusError
from vavl.media.media_probe import evenly
from vavl.reports.page import Html, Tile, facts, mark, paragraphs, pictures, section, table, tiles, write_page

_MOST_SHOWN = 8


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
        "files_named_otherwise": sum(
            len(side.table.strangers) for side in (found.layout.audio, found.layout.video) if side
        ),
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
    hours = summary["hours_estimated"]
    sides = ", ".join(f"{summary[key]} {key.replace('_', ' ')}" for key in ("audio_only", "video_only"))
    rows: list[tuple[str, Any]] = [
        ("clips", f"{summary['clips']} ({summary['paired_clips']} with sound and picture, {sides})"),
        ("speakers", summary["speakers"]),
        ("classes", ", ".join(summary["classes"]) or "none found"),
        ("labels", ", ".join(summary["label_sets"]) or "none found"),
        ("length", "unknown" if hours is None else f"median {summary['seconds_median']:.1f} s, about {hours:.1f} h"),
        ("frame rates", _listed(summary["frame_rates_hz"])),
        ("sample rates", _listed(summary["sample_rates_hz"])),
        ("unreadable", f"{len(summary['unreadable'])} of {summary['probed_files']} opened"),
        ("named otherwise", summary["files_named_otherwise"]),
        ("to decide", len(summary["decisions"])),
    ]  # fmt: skip
    rows += [
        ("known card", f"datasets/{card['card']} fits: {card['clips']} clips")
        for card in summary["known_cards"]
    ]
    return rows


def write_results(found: Description, folder: Path, pictured: int) -> dict[str, Any]:
    """Write card.yaml, prepare.yaml, description.html and summary.json; return the summary."""
    summary = summary_of(found)
    head = (
        f"Proposed by jobs/describe_corpus.py from the names in {found.root}; every key: datasets/README.md.\n"
        f"{len(found.decisions)} lines begin with DECIDE: look at each, then take the line out."
    )
    write_text(folder / "card.yaml", card_text(found.sections, head))
    write_text(folder / "prepare.yaml", _configuration(found, folder))
    _write_page(found, summary, folder, pictured)
    write_json(folder / "summary.json", summary)
    return summary


def require_valid(found: Description, folder: Path) -> None:
    """Refuse a proposal that gives no manifest; its files lie there to be corrected.

    Raises:
        CorpusError: with what the manifest met.
    """
    if found.manifest is None:
        raise CorpusError(
            str(folder / "card.yaml"), "", f"the proposed card does not work yet: {found.problem}",
            "correct the card by hand; description.html shows what was found",
        )  # fmt: skip


def _clip_counts(found: Description) -> dict[str, int]:
    if found.manifest is None:
        clips = found.layout.speakers_of_clips()
        return {"clips": len(clips), "speakers": len(set(clips.values())), "paired_clips": 0, "audio_only": 0,
                "video_only": 0}  # fmt: skip
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


def _configuration(found: Description, folder: Path) -> str:
    return (
        f"# Features of {found.name}: log-mel spectra of the sound, a descriptor of the face per video frame.\n"
        f"# python jobs/prepare_corpus.py {folder / 'prepare.yaml'}\n"
        f"output_dir: runs/stores/{found.name}\n"
        f"card: {json.dumps(str(folder / 'card.yaml'), ensure_ascii=False)}\n"
        f"root: {json.dumps(str(found.root.resolve()), ensure_ascii=False)}\n"
    )


def _write_page(found: Description, summary: Mapping[str, Any], folder: Path, pictured: int) -> None:
    numbers = tiles(
        [
            Tile(str(summary["clips"]), "clips", "audio_video"),
            Tile(str(summary["speakers"]), "speakers"),
            Tile(str(len(summary["classes"])), "classes"),
            Tile(str(len(found.listing.audio)), "sound files", "audio"),
            Tile(str(len(found.listing.video)), "video files", "video"),
        ]
    )
    parts = [numbers]
    if found.problem:
        parts.append(mark("The proposed card does not work yet", found.problem))
    for card in found.known:
        text = f"It finds {card.clips} clips in this folder. Use it in place of the proposal below."
        parts.append(mark(f"The card {card.path.name} fits", text))
    if found.decisions:
        parts.append(section("To decide", paragraphs(found.decisions)))
    parts += [_fields(found), _tables(found), section("Proposed card", _verbatim(found))]
    names = evenly(found.listing.video or found.listing.audio, pictured)
    seen = [look(found.root, name, is_video=bool(found.listing.video)) for name in names]
    if seen:
        parts.append(section("Clips", pictures([contact_sheet(seen)], large=True)))
    if summary["seconds_median"] is not None:
        parts.append(section("Lengths", pictures([durations_picture(found.probed)])))
    parts.append(section("Files", facts(dict(summary_rows(summary)))))
    write_page(folder / "description.html", f"The folder {found.root.name}", str(found.root), parts)


def _fields(found: Description) -> Html:
    named = found.layout.groups()
    rows = [
        (named.get(column.place, "not used"), len(column.distinct), ", ".join(column.distinct[:_MOST_SHOWN]),
         "folder" if column.place.level else "file name")
        for column in found.layout.roles.columns
    ]  # fmt: skip
    return section("Fields of the names", table(("taken as", "values", "e.g.", "where"), rows))


def _tables(found: Description) -> Html:
    rows = [
        (entry.file, entry.rows, entry.key_column or entry.speaker_column or "", entry.joined,
         entry.problem or ", ".join(entry.columns[:_MOST_SHOWN]))
        for entry in found.tables
    ]  # fmt: skip
    return section("Tables", table(("file", "rows", "key", "clips joined", "columns"), rows))


def _verbatim(found: Description) -> Html:
    lines = card_text(found.sections, "").splitlines()
    escaped = [line.replace("&", "&amp;").replace("<", "&lt;") for line in lines if line.strip("# ")]
    return Html("<pre><code>" + "\n".join(escaped) + "</code></pre>")
