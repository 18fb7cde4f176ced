"""Look at a directory of recordings, draft a card from it and build the manifest that the card gives."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vavl.config.load import validate
from vavl.config.progress import show_progress
from vavl.corpora.card import CorpusCard, read_card
from vavl.corpora.manifest import Manifest, build_manifest
from vavl.description.draft import Found, card_content, draft_card
from vavl.description.layout import Layout, find_layout
from vavl.description.names import cut_names
from vavl.description.people import DECIDE, Section, find_people, find_splits
from vavl.description.tables import TableFound, look_at_table
from vavl.errors import CorpusError, InputError
from vavl.media.listing import Listing, list_directory
from vavl.media.media_probe import Probed, evenly, probe_files

logger = logging.getLogger(__name__)

_MOST_TABLES = 50
# A shipped card fits a directory where it explains at least this share of its media.
_LEAST_SHARE_KNOWN = 0.5


@dataclass(frozen=True)
class KnownCard:
    """A shipped card whose patterns fit the directory."""

    path: Path
    clips: int


@dataclass(frozen=True)
class Description:
    """Everything found in a directory."""

    root: Path
    listing: Listing
    layout: Layout
    tables: tuple[TableFound, ...]
    probed: tuple[Probed, ...]  # heads of some of the media files
    sections: tuple[Section, ...]
    manifest: Manifest | None  # built from the card; None if that failed
    problem: str
    known: tuple[KnownCard, ...]

    @property
    def name(self) -> str:
        """Name of the proposed corpus."""
        return str(card_content(self.sections)["name"])

    @property
    def decisions(self) -> list[str]:
        """What a person must decide, one line each."""
        lines = [line for section in self.sections for line in section.comments]
        return [line.removeprefix(DECIDE) for line in lines if line.startswith(DECIDE)]


def corpus_name(directory: Path) -> str:
    """Return a name for the corpus of a directory: lower case letters, digits and underscores."""
    name = re.sub(r"[^a-z0-9]+", "_", directory.resolve().name.lower()).strip("_")
    return name if name[:1].isalpha() else f"corpus_{name}".rstrip("_")


def describe_directory(root: Path, name: str, *, cards: Path, most_files: int, probed_files: int) -> Description:
    """Look at at most ``most_files`` names and the heads of ``probed_files`` media below ``root``; propose a card.

    Raises:
        CorpusError: the directory cannot be listed or holds no media.
    """
    listing = list_directory(root, most_files)
    for directory, problem in listing.unlisted.items():
        raise CorpusError(str(root / directory), "", problem, "change its permissions")
    media = (*listing.audio, *listing.video)
    if not media:
        others = ", ".join(f"{count} {suffix}" for suffix, count in list(listing.others.items())[:5])
        problem = "no audio or video file is in the directory" + (f"; found {others}" if others else "")
        fix = "name the directory that holds the recordings (links to directories are not followed)"
        raise CorpusError(str(root), "", problem, fix)
    chosen = [name for names in (listing.audio, listing.video) for name in evenly(names, probed_files)]
    heads = show_progress(probe_files(root, chosen), len(chosen), "reading heads of media files")
    probed = tuple(heads)
    drafted = _drafted(root, name, listing, probed)
    sections = tuple(draft_card(drafted))
    manifest, problem = _checked(sections, root)
    known = tuple(_known_cards(cards, root, len(media)))
    return Description(root, listing, drafted.layout, tuple(drafted.tables), probed, sections, manifest, problem, known)


def _drafted(root: Path, name: str, listing: Listing, probed: Sequence[Probed]) -> Found:
    chosen = choose_videos(listing.video, probed, has_audio=bool(listing.audio))
    layout = find_layout(listing.audio, chosen.names)
    tables = _tables(root, listing, layout)
    skips = max((table.skips for table in tables), default=0)
    if skips:
        layout = layout.without_first(skips)
        tables = _tables(root, listing, layout)  # tables that add a suffix join only now
    splits, people = find_splits(layout, tables, find_people(layout, tables))
    return Found(name, layout, chosen.has_sound, tables, people, splits, chosen.notes)


def _tables(root: Path, listing: Listing, layout: Layout) -> list[TableFound]:
    clips = layout.speakers_of_clips()
    speakers = set(clips.values()) if layout.roles.people else set()
    chosen = listing.tables[:_MOST_TABLES]
    if len(listing.tables) > len(chosen):
        logger.warning("%s: %d of %d tables are looked at", root, len(chosen), len(listing.tables))
    return [look_at_table(root, name, clips, speakers) for name in chosen]


def _checked(sections: Sequence[Section], root: Path) -> tuple[Manifest | None, str]:
    """Build the manifest from the drafted card; the same code that a corpus goes through later."""
    try:
        card = validate(CorpusCard, card_content(sections), "proposed card")
        return build_manifest(card, root), ""
    except InputError as error:
        return None, str(error)


def _known_cards(cards: Path, root: Path, media: int) -> list[KnownCard]:
    known = []
    corpora_log = logging.getLogger("vavl.corpora")
    before = corpora_log.level
    corpora_log.setLevel(logging.ERROR)  # a card that does not fit would warn of every file it does not know
    try:
        for path in sorted(cards.glob("*.yaml")):
            try:
                manifest = build_manifest(read_card(path), root)
            except InputError:
                continue
            places = [manifest.table[side] for side in ("audio_path", "video_path")]
            if sum(len(side) - side.null_count for side in places) >= _LEAST_SHARE_KNOWN * media:
                known.append(KnownCard(path, len(manifest)))
    finally:
        corpora_log.setLevel(before)
    return known


_LEAST_TWICE = 0.5
_MOST_VALUES = 3


@dataclass(frozen=True)
class Videos:
    """The video files of the clips."""

    names: tuple[str, ...]
    has_sound: bool
    notes: tuple[str, ...] = ()  # what was decided, for a comment


def choose_videos(names: Sequence[str], probed: Sequence[Probed], *, has_audio: bool = False) -> Videos:
    """Leave out files that hold the pictures of other ones without their sound.

    With ``has_audio`` the audio lies in files of its own, and nothing is to decide about that of the video files.

    Published so by RAVDESS (``01-`` with sound, ``02-`` without); else found where a field of the names tells
    files with sound from files without, and the names are the same but for that field.
    """
    sound = {head.name: bool(head.has_sound) for head in probed if not head.problem and head.name in set(names)}
    kept, note = _with_sound(names, sound)
    known = [sound[name] for name in kept if name in sound]
    notes = [note] if note else []
    with_sound = sum(known)
    if 0 < with_sound < len(known) and not has_audio:
        notes.append(
            f"{DECIDE}{len(known) - with_sound} of {len(known)} video files that were opened hold no audio; "
            f"{'audio is taken from all' if with_sound > len(known) / 2 else 'no audio is taken from them'}."
        )
    if kept and not known and not has_audio:
        notes.append(f"{DECIDE}no video file was opened, so it is not known whether they hold the audio.")
    return Videos(tuple(kept), with_sound > len(known) / 2, tuple(notes))


def _with_sound(names: Sequence[str], sound: dict[str, bool]) -> tuple[Sequence[str], str]:
    if not names:
        return names, ""
    cut = cut_names(names)
    fields = cut.parts[-1].fields
    for one in fields:
        by_value = _by_value(cut.names, one.values)
        if not 1 < len(by_value) <= _MOST_VALUES or len(fields) == 1:
            continue
        if cut.scheme is not None and cut.scheme.title == "RAVDESS" and one.number == 0:
            silent = {"02"} & by_value.keys() if "01" in by_value else set()
        else:
            silent = _silent_values(by_value, sound)
        copies = {name for value in silent for name in by_value[value]}
        # A copy may lie in another directory: the file name alone counts.
        rests = zip(*(other.values for other in fields if other is not one), strict=True)
        rest_of_name = dict(zip(cut.names, rests, strict=True))
        others = {text for name, text in rest_of_name.items() if name not in copies}
        twice = sum(rest_of_name[name] in others for name in copies)
        if copies and twice >= _LEAST_TWICE * len(copies):
            rest = [name for name in names if name not in copies]
            examples = PurePosixPath(min(copies)).name
            note = f"{len(copies)} files are left out: the video of others without its audio, e.g. {examples}."
            return rest, note
    return names, ""


def _by_value(names: Sequence[str], values: Sequence[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for name, value in zip(names, values, strict=True):
        found.setdefault(value, []).append(name)
    return found


def _silent_values(by_value: dict[str, list[str]], sound: dict[str, bool]) -> set[str]:
    """Return the values of a field whose files hold no sound, if those of all others do."""
    heard = {value: {sound[name] for name in names if name in sound} for value, names in by_value.items()}
    if any(len(found) != 1 for found in heard.values()):
        return set()
    silent = {value for value, found in heard.items() if found == {False}}
    return silent if len(silent) < len(by_value) else set()
