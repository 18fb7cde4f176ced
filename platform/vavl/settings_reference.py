"""Write ``jobs/configs/REFERENCE.md``, the list of all settings: ``python -m vavl.settings_reference [--check]``."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from pydantic import BaseModel

from vavl.config.files import write_text
from vavl.config.setting_list import Setting, list_settings
from vavl.job_config import JOB_SETTINGS

REFERENCE = Path(__file__).parents[2] / "jobs" / "configs" / "REFERENCE.md"

_HEAD = """\
# All settings

Written by `make reference` from the settings classes; `make check` compares. A key is written as nested YAML, or as
an override on the command line (`data.fold=1`). A section that two jobs share is listed once.
"""


def main(arguments: list[str]) -> int:
    """Write the file; with ``--check`` compare it only, and return 1 where it is out of date."""
    text = reference()
    if arguments != ["--check"]:
        write_text(REFERENCE, text)
        return 0
    if REFERENCE.exists() and REFERENCE.read_text(encoding="utf-8") == text:
        return 0
    print(f"{REFERENCE}: not what the settings classes say; run `make reference`", file=sys.stderr)
    return 1


def reference() -> str:
    """Return the whole page."""
    known: dict[tuple[type[BaseModel], str], str] = {}
    parts = [_HEAD]
    for job, settings in sorted(JOB_SETTINGS.items(), key=lambda item: (item[0] != "train_model", item[0])):
        before = set(known)
        rows = list(_rows(list_settings(settings, known)))
        known |= {identity: f"{name} of {job}" for identity, name in known.items() if identity not in before}
        parts.append("\n".join([f"\n## {job}\n", "| key | default | type | meaning |", "|---|---|---|---|", *rows, ""]))
    return "".join(parts)


def _rows(settings: list[Setting]) -> Iterator[str]:
    for one in settings:
        if one.same_as is not None:
            yield f"| `{one.key}.*` | | as `{_place(one.same_as)} | {_cell(one.meaning)} |"
        else:
            default = "**required**" if one.default == "required" else f"`{_cell(one.default)}`"
            yield f"| `{one.key}` | {default} | {_cell(one.kind)} | {_cell(one.meaning)} |"


def _place(section: str) -> str:
    key, of, job = section.partition(" of ")
    return f"{key}.*`" + (f" of [{job}](#{job})" if of else "")


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
