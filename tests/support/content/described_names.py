"""A directory of named files and tables, described; what the description says of people, splits and doubts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import yaml

from vavl.description.describe import Description, describe_directory
from vavl.description.draft import card_content, card_text


def described(root: Path, names: Iterable[str], **tables: str) -> Description:
    for name in names:
        path = root / (name if "." in name else f"{name}.wav")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    for name, text in tables.items():
        (root / f"{name}.csv").write_text(text)
    found = describe_directory(root, "found", cards=root / "none", most_files=100_000, probed_files=0)
    assert yaml.safe_load(card_text(found.sections, "head")) == card_content(found.sections)
    return found


def speakers_of(found: Description) -> list[str]:
    assert found.problem == ""
    assert found.manifest is not None
    return list(found.manifest.speaker_codes()[1])


def splits_by_clip(found: Description) -> dict[str, str]:
    assert found.manifest is not None
    table = found.manifest.table
    return dict(zip(table["clip_id"].to_pylist(), table["split_0"].to_pylist(), strict=True))


def is_to_decide(found: Description, *texts: str) -> bool:
    return any(all(text in line for text in texts) for line in found.decisions)


def rows(title: str, lines: Iterable[object]) -> str:
    return "\n".join([title, *map(str, lines)]) + "\n"
