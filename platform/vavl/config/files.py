"""Files that are whole or absent: written next to their place, then renamed."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vavl.errors import FullDiskError, InputError

_FULL = (errno.ENOSPC, errno.EDQUOT)


@contextlib.contextmanager
def full_disk_named(path: Path) -> Iterator[None]:
    """Turn what a full disk raises, while ``path`` is written, into a ``FullDiskError``; other errors pass."""
    try:
        yield
    except OSError as error:
        if error.errno not in _FULL:
            raise
        fix = "free disk space there or name another directory; the same command then goes on"
        raise FullDiskError(str(path), "", f"cannot be written: {os.strerror(error.errno or 0)}", fix) from None


@contextlib.contextmanager
def written_beside(path: Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path``; rename it into place if the block succeeds.

    Raises:
        InputError: the directory cannot be written, or its disk is full.
    """
    make_directory(path.parent)
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".partial", dir=path.parent)
    os.close(handle)
    partial = Path(name)
    try:
        with full_disk_named(path):
            yield partial
            # mkstemp creates files that only the owner reads; results are to be shared like other files.
            partial.chmod(0o644)
            partial.replace(path)
    finally:
        partial.unlink(missing_ok=True)


def write_text(path: Path, text: str) -> None:
    """Write ``text`` as UTF-8, whole or not at all."""
    with written_beside(path) as partial:
        partial.write_text(text, encoding="utf-8")


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` as indented JSON, whole or not at all; NaN is refused."""
    write_text(path, json.dumps(content, indent=2, allow_nan=False, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read a JSON file. Raises InputError if the file is missing or is not JSON."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InputError(str(path), "", "the file does not exist", "check the path") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise InputError(str(path), "", f"not valid JSON: {error}", "restore the file or make it again") from None


def write_dataset_state(directory: Path, files: Sequence[str]) -> None:
    """Make Arrow stream files in ``directory`` what ``Dataset.save_to_disk`` leaves: ``load_from_disk`` opens them."""
    state: dict[str, Any] = {
        "_data_files": [{"filename": name} for name in files],
        "_fingerprint": sha256_of_json(list(files))[:16],
        **dict.fromkeys(("_format_columns", "_format_type", "_split")),
        "_format_kwargs": {},
        "_output_all_columns": False,
    }
    write_json(directory / "state.json", state)
    write_json(directory / "dataset_info.json", {})  # the columns are those of the files


def make_directory(directory: Path, setting: str = "output_dir") -> Path:
    """Create ``directory`` and its parents, and prove that it can be written.

    ``setting``: what names another directory, for the message.

    Raises:
        InputError: the directory cannot be created or is read-only.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=directory):
            pass
    except OSError as error:
        problem = f"the directory cannot be written: {error.strerror or error}"
        fix = f"choose another {setting} or change the directory's permissions"
        raise InputError(str(directory), "", problem, fix) from None
    return directory


def file_mark(path: Path) -> str:
    """Return size and time of change of a file: what changes when it is replaced; "missing" where there is none."""
    try:
        status = os.stat(path)  # noqa: PTH116  half the time of Path.stat, for every file
    except OSError:
        return "missing"
    return f"{status.st_size} {status.st_mtime_ns}"


def sha256_of_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sha256_of_json(content: Any) -> str:
    """Return the hexadecimal SHA-256 of ``content`` as canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
