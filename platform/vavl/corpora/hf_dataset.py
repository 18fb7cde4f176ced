"""Rows of a Hugging Face dataset: its media as files below the corpus directory, its other columns as texts.

Media that the dataset names by their path are read where they lie, below the corpus directory. Those that it holds as
bytes are laid down once in ``.hf/media``, named by their content. A dataset of the hub is downloaded to
``.hf/<commit>``. Nothing is decoded here, so torchcodec is not needed.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any

from vavl.config.files import sha256_of_json, written_beside
from vavl.config.plugins import hint
from vavl.corpora.card import CorpusCard
from vavl.corpora.card_sources import HfSource
from vavl.errors import CorpusError, proxy_hint
from vavl.media.csv_table import place_inside
from vavl.media.media_bytes import suffix_of

logger = logging.getLogger(__name__)

DIRECTORY = ".hf"
"""Hidden: neither patterns of a card nor the dataset itself find their way into it."""
Texts = dict[str, str | None]


def dataset_rows(
    modality: str, source: HfSource, root: Path, needed: Iterable[tuple[str, str]]
) -> Iterator[tuple[str, Texts]]:
    """Yield each row that has the modality: its file relative to ``root`` (POSIX), and its columns as texts.

    The texts also hold ``clip`` (the clip id) and ``split``; names stand for the numbers of a ClassLabel. None is a
    missing value.

    ``needed`` are key of the card and name of each column that it reads.

    Raises:
        CorpusError: the dataset cannot be opened or downloaded, a column is missing or holds no media, a row names no
            clip, or its media lie outside the corpus directory.
    """
    wanted = [*needed, (f"{modality}.clip", source.clip or "clip")]
    base, splits = _open(modality, source, root)
    for split, rows in splits.items():
        features = rows.features
        media = _media_column(modality, source, base, features)
        plain = [name for name, feature in features.items() if name != media and _is_plain(feature)]
        for key, name in wanted:
            if name not in {*plain, "clip", "split"}:
                problem = f"the dataset has no column `{name}` of texts or numbers; {hint(name, plain)}"
                raise CorpusError(str(base), key, problem, "correct the name in the card")
        for number, row in enumerate(_read(rows.select_columns([media, *plain]), media, base), start=1):
            place, name = _place(row[media], root, base, f"{media}, row {number} of {split}")
            if place is None:
                continue
            texts = {"split": split, **{column: _text(features[column], row[column]) for column in plain}}
            texts["clip"] = texts[source.clip] if source.clip else name
            if not texts["clip"]:
                problem = f"nothing names the clip: {source.clip or f'{media} is bytes without a path'}"
                fix = f"name a column of clip ids by {modality}.clip of the card"
                raise CorpusError(str(base), f"row {number} of {split}", problem, fix)
            yield place, texts


def label_names(card: CorpusCard, root: Path) -> tuple[str, ...]:
    """Return the names of the ClassLabel column that the card's first set of labels is read from; () if it is another.

    Raises:
        CorpusError: the dataset cannot be opened or downloaded.
    """
    columns = [name for key, name in card.groups_used() if key == f"labels.{next(iter(card.labels), None)}"]
    for modality, source in card.datasets.items():
        for rows in _open(modality, source, root)[1].values():
            for column in columns:
                if names := getattr(rows.features.get(column), "names", None):
                    return tuple(names)
    return ()


def _open(modality: str, source: HfSource, root: Path) -> tuple[Path, Mapping[str, Any]]:
    """Return the directory that paths count from, and the rows by split; nothing is read or decoded yet."""
    from datasets import Dataset, Video, load_dataset_builder, load_from_disk  # a second, for cards that need it

    files = source.data_files
    if source.is_on_hub:
        named = [files] if isinstance(files, str) else files.values() if isinstance(files, dict) else files or ()
        top = _downloaded(f"{modality}.load", source.load, source.revision, root, tuple(named), source.data_dir)
    else:
        top = root
    base = place_inside(top, source.data_dir) if source.data_dir else top
    try:
        if source.load == "saved":
            loaded = load_from_disk(str(base))
            splits = {"train": loaded} if isinstance(loaded, Dataset) else loaded
        else:
            form, directory = (str(top), source.data_dir) if source.is_on_hub else (source.load, str(base))
            data_files = list(files) if isinstance(files, tuple) else files
            builder = load_dataset_builder(form, name=source.config, data_dir=directory, data_files=data_files)
            # Of datasets 5.2, Audio needs torchcodec even to keep a path; Video keeps the same two fields without.
            if hasattr(builder, "BASE_FEATURE"):
                builder.BASE_FEATURE = Video
            splits = builder.as_streaming_dataset()
    except Exception as error:  # a library of many formats raises what each of them raises
        fix = "correct load, data_dir, data_files or config of the card, or restore the dataset"
        raise CorpusError(str(base), f"{modality}.load", f"`{source.load}` cannot be opened: {error}", fix) from error
    if source.split is not None and source.split not in splits:
        problem = f"the dataset has no split `{source.split}`; {hint(source.split, map(str, splits))}"
        raise CorpusError(str(base), f"{modality}.split", problem, "correct the name in the card")
    return base, {str(name): rows for name, rows in splits.items() if source.split in (None, name)}


@lru_cache(maxsize=8)
def _downloaded(
    field: str, name: str, revision: str | None, root: Path, files: tuple[str, ...], data_dir: str | None
) -> Path:
    """Return the directory of a dataset of the hub at the wanted revision, once complete without asking the hub."""
    patterns = [f"{data_dir}/{file}" if data_dir else file for file in files or (("*",) if data_dir else ())]
    mark = f"{sha256_of_json(patterns)[:8]}.complete"  # of what was asked for
    if re.fullmatch("[0-9a-f]{40}", revision or "") and (root / DIRECTORY / f"{revision}-{mark}").exists():
        return root / DIRECTORY / str(revision)
    from huggingface_hub import HfApi
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    try:
        hub = HfApi()
        commit = hub.dataset_info(name, revision=revision).sha
        assert commit is not None
        if revision is None:
            message = "%s: %s names no revision; commit %s is taken: write it into the card to keep to it"
            logger.warning(message, name, field.replace("load", "revision"), commit)
        place: Path = root / DIRECTORY / commit
        wanted = [*patterns, "README.md"] if patterns else None
        hub.snapshot_download(name, repo_type="dataset", revision=commit, local_dir=place, allow_patterns=wanted)
    except RevisionNotFoundError:
        problem, fix = f"{name} has no revision `{revision}`", "write a commit, tag or branch of it into the card"
        raise CorpusError(name, field.replace("load", "revision"), problem, fix) from None
    except RepositoryNotFoundError:
        fix = "correct owner/name, or accept its terms on its page and run `hf auth login`"
        raise CorpusError(name, field, "there is no such dataset on the hub, or it is not open to you", fix) from None
    except Exception as error:
        fix = "try again where the hub can be reached; what was downloaded is kept" + proxy_hint("huggingface.co")
        raise CorpusError(name, field, f"cannot be downloaded from the hub: {error}", fix) from error
    with written_beside(root / DIRECTORY / f"{commit}-{mark}"):
        pass
    return place


def _media_column(modality: str, source: HfSource, base: Path, features: Mapping[str, Any]) -> str:
    from datasets import Value

    known = [name for name, feature in features.items() if not _is_plain(feature) and _may_hold_media(feature)]
    column = source.column or modality
    feature = features.get(column)
    if column in known or (isinstance(feature, Value) and "string" in feature.dtype):
        return column
    problem = f"no column `{column}` of media" if feature is None else f"column `{column}` holds no media: {feature}"
    found = f"; {hint(column, known)}" if known else f"; it has {', '.join(features)}, none of them media"
    raise CorpusError(str(base), f"{modality}.column", problem + found, f"name one by {modality}.column of the card")


def _may_hold_media(feature: Any) -> bool:
    from datasets import Audio, Value, Video

    is_pair = isinstance(feature, dict) and set(feature) == {"bytes", "path"}
    return isinstance(feature, Audio | Video) or is_pair or feature in (Value("binary"), Value("large_binary"))


def _is_plain(feature: Any) -> bool:
    from datasets import ClassLabel, Value

    return isinstance(feature, ClassLabel) or (isinstance(feature, Value) and "binary" not in feature.dtype)


def _read(rows: Any, media: str, base: Path) -> Iterator[dict[str, Any]]:
    from datasets import Audio, Video

    feature = rows.features[media]
    try:
        yield from rows.cast_column(media, type(feature)(decode=False)) if isinstance(feature, Audio | Video) else rows
    except Exception as error:  # see _open
        raise CorpusError(str(base), "", f"the dataset cannot be read: {error}", "restore its files") from error


def _text(feature: Any, value: Any) -> str | None:
    """Return a value of a plain column as a text; None for null, NaN and the -1 of a ClassLabel."""
    names = getattr(feature, "names", None)
    if value is None or value != value or (names is not None and value < 0):
        return None
    return str(value) if names is None else str(names[value])


def _place(cell: Any, root: Path, base: Path, where: str) -> tuple[str | None, str]:
    """Return where the media of a row lie below ``root``, None where it has none, and the name that they suggest."""
    pair = cell if isinstance(cell, dict) else {"path" if isinstance(cell, str) else "bytes": cell}
    content, path = pair.get("bytes"), (pair.get("path") or "").replace("\\", "/")
    if content is not None:
        digest = hashlib.sha256(content).hexdigest()[:32]
        suffix = PurePosixPath(path).suffix.lower() or suffix_of(content)
        name = f"{DIRECTORY}/media/{digest[:2]}/{digest}{suffix}"
        if not (root / name).exists():
            with written_beside(root / name) as partial:
                partial.write_bytes(content)
        return name, PurePosixPath(path).stem
    if not path:
        return None, ""
    if "://" in path:
        fix = "unpack the archive below the corpus directory, or let the dataset hold the bytes"
        raise CorpusError(str(base), where, f"{path} is in an archive or at an address", fix)
    try:
        file = place_inside(root, str(base / path)).resolve()
    except CorpusError as error:
        raise CorpusError(str(base), where, f"{path}: {error.problem}", error.fix) from None
    inner = file.relative_to(base.resolve()) if file.is_relative_to(base.resolve()) else Path(file.name)
    return file.relative_to(root.resolve()).as_posix(), inner.with_suffix("").as_posix()
