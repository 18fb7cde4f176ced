"""Which video files stand for the clips, and whether they hold the audio as well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

from vavl.description.names import cut_names
from vavl.description.people import DECIDE
from vavl.media.media_probe import Probed

_LEAST_TWICE = 0.5
_MOST_VALUES = 3


@dataclass(frozen=True)
class Videos:
    """The video files of the clips.

    Attributes:
        notes: what was decided, for a comment.
    """

    names: tuple[str, ...]
    has_sound: bool
    notes: tuple[str, ...] = ()


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
    table = cut_names(names)
    part = table.parts[-1]
    for place, values in enumerate(part.fields):
        by_value = _by_value(table.names, values)
        if not 1 < len(by_value) <= _MOST_VALUES or len(part.fields) == 1:
            continue
        if table.scheme is not None and table.scheme.title == "RAVDESS" and place == 0:
            silent = {"02"} & by_value.keys() if "01" in by_value else set()
        else:
            silent = _silent_values(by_value, sound)
        copies = {name for value in silent for name in by_value[value]}
        # A copy may lie in another directory: the file name alone counts.
        rests = zip(*part.fields[:place], *part.fields[place + 1 :], strict=True)
        rest_of_name = dict(zip(table.names, rests, strict=True))
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
