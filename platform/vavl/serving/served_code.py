"""What a registered model consists of: its code, as a hash, and the checksums of all its files."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from vavl.config.files import read_json, sha256_of_file, write_json
from vavl.errors import InputError

CODE_HASH_KEY = "vavl_code_hash"
CODE_FILES_KEY = "vavl_code_files"

CHECKSUMS_FILE = "checksums.json"
"""Within MLflow's form of a model: SHA-256 of every other file, by its path."""

CHECKSUMS_TAG = "vavl.checksums_sha256"
"""Of the version: SHA-256 of its ``checksums.json``."""

ACCEPT_VARIABLE = "VAVL_ACCEPT_CHANGED_MODELS"
"""``true``: a model whose files are not those that were registered is loaded with a warning."""

# MLflow writes the one whenever it loads a version, Python the other.
_NOT_OF_THE_MODEL = ("registered_model_meta", "__pycache__")
_MODEL_ID = re.compile(r"m-[0-9a-f]{32}")
_SHOWN = 5
_log = logging.getLogger(__name__)


def code_hash(package: Path, files: Sequence[str] | None = None) -> str:
    """Return a hash over Python files of ``package``: which code a model was made with.

    ``files``: names relative to it; all of its Python files by default. One that is absent changes the hash.
    """
    names = files or [file.relative_to(package).as_posix() for file in package.rglob("*.py")]
    total = hashlib.sha256()
    for name in sorted(names):
        total.update(f"{name}\0".encode())
        if (package / name).is_file():
            total.update((package / name).read_bytes())
    return total.hexdigest()


def write_checksums(directory: Path) -> str:
    """List the files of a model in its ``checksums.json``; returns the SHA-256 of that list.

    Args:
        directory: MLflow's form of a model, complete.
    """
    write_json(directory / CHECKSUMS_FILE, _checksums(directory))
    return sha256_of_file(directory / CHECKSUMS_FILE)


def check_files(directory: Path, title: str, expected: str | None = None, model_id: str | None = None) -> None:
    """Refuse a model that is not what was registered: files changed, missing, added, or those of another model.

    Args:
        directory: MLflow's form of a model, as it was downloaded or where it lies.
        title: of the model, for the message.
        expected: SHA-256 of its ``checksums.json``, which the registry keeps with the version; None where only the
            model itself can be asked.
        model_id: that its ``MLmodel`` names: a store keeps the model in a directory of this name.

    Raises:
        InputError: names the files; with ``VAVL_ACCEPT_CHANGED_MODELS=true`` a warning does.
    """
    listing = directory / CHECKSUMS_FILE
    place = next((part for part in reversed(directory.absolute().parts) if _MODEL_ID.fullmatch(part)), None)
    if None not in (place, model_id) and place != model_id:
        refuse_changed(title, "MLmodel", f"the files of {model_id} lie in the place of {place}")
    if not listing.is_file():
        refuse_changed(title, CHECKSUMS_FILE, f"{listing} is missing")
    elif expected not in (None, sha256_of_file(listing)):
        refuse_changed(title, CHECKSUMS_FILE, f"{listing} is that of another model, or was changed")
    else:
        changes = _changes(read_json(listing), _checksums(directory))
        if changes:
            more = f" and {len(changes) - _SHOWN} more" if len(changes) > _SHOWN else ""
            refuse_changed(title, "files", f"in {directory}: {', '.join(changes[:_SHOWN])}{more}")


def refuse_changed(title: str, field: str, problem: str) -> None:
    """Refuse a model whose files are not those that were registered, unless the user accepts it.

    Raises:
        InputError: unless ``VAVL_ACCEPT_CHANGED_MODELS`` is ``true``.
    """
    problem = f"is not what was registered: {problem}"
    if os.environ.get(ACCEPT_VARIABLE) == "true":
        _log.warning("%s: %s; it is used all the same: %s=true", title, problem, ACCEPT_VARIABLE)
        return
    fix = f"register the model again or restore its files; to use it as it is: export {ACCEPT_VARIABLE}=true"
    raise InputError(title, field, problem, fix)


def _checksums(directory: Path) -> dict[str, str]:
    # A link to a directory is none of the model's own either.
    paths = [path for path in sorted(directory.rglob("*")) if path.is_symlink() or not path.is_dir()]
    files = {path.relative_to(directory): path for path in paths}
    return {
        name.as_posix(): sha256_of_file(path) if path.is_file() else "no file"
        for name, path in files.items()
        if name.as_posix() != CHECKSUMS_FILE and not {*name.parts} & {*_NOT_OF_THE_MODEL}
    }


def _changes(listed: Any, found: Mapping[str, str]) -> list[str]:
    if not isinstance(listed, dict):
        return [f"{CHECKSUMS_FILE} holds no list"]
    return [
        f"{name} is {'missing' if name not in found else 'changed' if name in listed else 'added'}"
        for name in sorted({*listed, *found})
        if listed.get(name) != found.get(name)
    ]
