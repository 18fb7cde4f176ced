"""Find the clips of a corpus: files that match a pattern and rows of a feature table."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Iterable, Set
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import ClipList, CsdSource, FileSource, HfSource, OpenFaceSource, TableSource
from vavl.corpora.hf_dataset import dataset_rows
from vavl.errors import CorpusError
from vavl.media.csd import open_container, read_segments
from vavl.media.csv_table import place_inside, read_text_columns
from vavl.media.listing import list_files
from vavl.media.patterns import one_writing, whole_match

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Found:
    """One modality of a clip."""

    place: str  # path relative to the corpus directory (POSIX), or the key of a row of the feature table
    # what the named groups of the pattern matched, or the columns of the row of a dataset; None for a group
    # without a part in it
    groups: dict[str, str | None]


Side = dict[str, Found]  # clip id -> what was found for it


def find_clips(card: CorpusCard, root: Path) -> tuple[Side, Side]:
    """Find the audio side and the video side of a corpus; a modality that the card leaves out is empty.

    Raises:
        CorpusError: a pattern matches nothing, a clip id occurs twice on one modality, a table is
            missing or broken, a file lies outside the directory, or clips with one modality are refused.
    """
    wants_files = any(isinstance(side, FileSource | OpenFaceSource) for side in (card.audio, card.video))
    names = list_files(root) if wants_files else []
    audio = _find_side("audio", card.audio, card, root, names)
    video = _find_side("video", card.video, card, root, names)
    if card.audio and card.video:
        _treat_unpaired(card, audio, video)
    _warn_of_case(card, audio.keys() | video.keys())
    return audio, video


def _find_side(
    modality: str,
    source: FileSource | OpenFaceSource | TableSource | CsdSource | HfSource | None,
    card: CorpusCard,
    root: Path,
    names: Iterable[str],
) -> Side:
    match source:
        case FileSource() | OpenFaceSource():
            return find_files(modality, source, root, names)
        case TableSource():
            return find_rows(modality, source, root)
        case CsdSource():
            return find_segments(modality, source, root)
        case HfSource():
            side: Side = {}
            for place, groups in dataset_rows(modality, source, root, card.groups_used()):
                _add(side, groups, place, f"{root}: {source.load}")
            return side
        case None:
            return {}


def find_files(modality: str, source: FileSource | OpenFaceSource, root: Path, names: Iterable[str]) -> Side:
    """Match the files of one modality among ``names``, paths relative to ``root``.

    Raises:
        CorpusError: nothing matches, a clip occurs twice, or a matching file is a link that leads out
            of the corpus directory.
    """
    side: Side = {}
    unmatched: list[str] = []
    for name in names:
        path = PurePosixPath(name)
        if path.suffix.lower() not in source.suffixes:
            continue
        match = whole_match(source.pattern, name.removesuffix(path.suffix), f"{modality}.pattern")
        if match is None:
            unmatched.append(name)
            continue
        _check_file(root, name)
        _add(side, match.groupdict(), name, str(root))
    what = f"{modality}.pattern"
    if not side:
        problem = f"no file matches {source.pattern} with {' '.join(source.suffixes)}" + (
            f"; found instead e.g. {unmatched[0]}" if unmatched else ""
        )
        fix = (
            "point the environment variable of the card to the corpus directory, or correct the pattern "
            "(links to directories are not followed)"
        )
        raise CorpusError(str(root), what, problem, fix)
    if unmatched:
        message = "%s: %d files do not match %s and are left out, e.g. %s"
        logger.warning(message, root, len(unmatched), what, unmatched[0])
    return side


def find_rows(name: str, source: TableSource | ClipList, root: Path) -> Side:
    """Match the rows of a table by their keys; ``name`` is the key of the card that names it, for messages.

    Raises:
        CorpusError: the table is missing, empty or has no such column; a key does not match the
            pattern or occurs twice.
    """
    (keys,) = read_text_columns(root, source.file, (source.key_column,))
    side: Side = {}
    for row, key in enumerate(keys, start=1):
        match = whole_match(source.pattern, key, f"{name}.pattern")
        if match is None:
            problem = f"key {key!r} does not match {source.pattern}"
            fix = f"correct the table or {name}.pattern"
            raise CorpusError(str(root / source.file), f"{source.key_column}, row {row}", problem, fix)
        _add(side, match.groupdict(), key, str(root / source.file))
    return side


def find_segments(name: str, source: CsdSource, root: Path) -> Side:
    """Match the segments of a container by their keys; those of videos without features are left out.

    Raises:
        CorpusError: a container is missing or broken, a key does not match the pattern, or no video of
            the segments has features.
    """
    segments = read_segments(root, source.segments.file, source.segments.sequence)
    with open_container(root, source.file, source.sequence) as container:
        videos = set(container.videos)
    present = [segment for segment in segments.values() if segment.video in videos]
    file = str(root / source.segments.file)
    if not present:
        raise CorpusError(
            file, f"{name}.segments", f"no video of it is in {source.file}", "get both files of one corpus"
        )
    if len(present) < len(segments):
        message = "%s: %d of %d segments have no %s features and are left out of that modality"
        logger.warning(message, file, len(segments) - len(present), len(segments), name)
    side: Side = {}
    for segment in present:
        match = whole_match(source.pattern, segment.key, f"{name}.pattern")
        if match is None:
            raise CorpusError(file, segment.key, f"the key does not match {source.pattern}", f"correct {name}.pattern")
        _add(side, match.groupdict(), segment.key, file)
    return side


def _check_file(root: Path, name: str) -> None:
    if (root / name).is_symlink():
        place_inside(root, name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise CorpusError(str(root), ascii(name), "the file's name is not UTF-8", "rename the file") from None


def _add(side: Side, groups: dict[str, str | None], place: str, file: str) -> None:
    clip_id = one_writing(groups["clip"] or "")
    if not clip_id:
        raise CorpusError(file, place, "the clip id is empty", "let the group `clip` always match")
    if any(unicodedata.category(sign) == "Cc" for sign in clip_id):
        problem = "the name of the clip holds a control character, such as a line break"
        raise CorpusError(file, ascii(place), problem, "rename the file or correct the key")
    if clip_id in side:
        problem = f"two entries for one clip: {side[clip_id].place} and {place}"
        raise CorpusError(file, clip_id, problem, "remove one of them, or let the group `clip` tell them apart")
    side[clip_id] = Found(place, groups)


def _warn_of_case(card: CorpusCard, clip_ids: Set[str]) -> None:
    folded: dict[str, str] = {}
    for clip_id in sorted(clip_ids):
        other = folded.setdefault(clip_id.casefold(), clip_id)
        if other != clip_id:
            message = "%s: clips whose names differ in case alone count as two, e.g. %s and %s"
            logger.warning(message, card.name, other, clip_id)
            return


def _treat_unpaired(card: CorpusCard, audio: Side, video: Side) -> None:
    """Keep, drop or refuse clips found on one modality only, as the card says."""
    cases = (
        ("audio_only", card.unpaired.audio_only, audio, video),
        ("video_only", card.unpaired.video_only, video, audio),
    )
    alone = {name: sorted(side.keys() - other.keys()) for name, _, side, other in cases}
    for name, rule, side, _ in cases:
        if not alone[name]:
            continue
        summary = f"{len(alone[name])} clips are {name.replace('_', ' ')}, e.g. {side[alone[name][0]].place}"
        if rule == "refuse":
            fix = f"complete the corpus, or write `unpaired: {{{name}: keep}}` (or drop) into the card"
            raise CorpusError(card.name, f"unpaired.{name}", summary, fix)
        logger.warning("%s: %s (%s)", card.name, summary, "left out" if rule == "drop" else "kept")
        if rule == "drop":
            for clip_id in alone[name]:
                del side[clip_id]
