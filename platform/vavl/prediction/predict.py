"""From a plan to rows: what is there is kept, the rest is predicted by this process or by Ray's workers."""

from __future__ import annotations

import logging
import math
import shutil
import time
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from vavl.config.files import make_directory, read_json, sha256_of_json, write_json, written_beside
from vavl.config.load import without_secrets
from vavl.config.progress import Progress
from vavl.errors import StoreError
from vavl.models.settings import Task
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.settings import PredictionSettings
from vavl.prediction.sources import ClipInput, MediaSource
from vavl.prediction.worker import ClipPart, ClipWork, PredictionWork, Problem, decided, part_schema, rows_of
from vavl.workers.attempts import TimeLimit
from vavl.workers.local import only_job, threads_of_libraries, uses_ray

logger = logging.getLogger(__name__)

_ALL, _INPUT, _COPY = "all.parquet", "input.json", "model"
_MODEL_FILES = ("model.json", "model.safetensors")
_CLIPS_OF_MEDIA, _CLIPS_OF_STORE = 32, 512
"""In a part: little is lost with a killed process, and a part is worth its file."""

_CLIPS_WORTH_RAY = 4096
"""Of a store, which this process reads as fast as it can compute."""


@dataclass(frozen=True)
class DoneRows:
    """Rows of earlier work that hold now."""

    rows: pa.Table  # of the columns of a part; each key's rows once
    was_killed: bool  # a process ended in the middle of a clip, in an earlier job

    @property
    def keys(self) -> set[str]:
        """Keys of the clips."""
        return set(self.rows["key"].to_pylist())


def read_done(directory: Path, keys: Sequence[str], task: Task, *, resume: bool, retry_failed: bool) -> DoneRows:
    """Read what earlier jobs finished of these clips; remove what they left half done."""
    schema = part_schema(task)
    was_killed = any(directory.glob(".*.current"))
    # A clip in which a killed job was at work gets a new chance.
    for path in directory.glob(".*.*"):
        path.unlink()
    wanted = pa.array(keys, pa.string())
    known: set[str] = set()
    tables = [schema.empty_table()]
    for path in sorted(directory.glob("*.parquet")) if resume else ():
        table = _rows_of(path, schema)
        if table is None:
            logger.warning("%s is damaged or of an older version; its clips are predicted again", path.name)
            continue
        table = table.filter(pc.is_in(table["key"], value_set=wanted))
        if retry_failed:
            table = table.filter(pc.is_null(table["error"]))
        fresh = table.filter(pc.invert(pc.is_in(table["key"], value_set=pa.array(sorted(known), pa.string()))))
        known |= set(fresh["key"].to_pylist())
        tables.append(fresh)
    if not resume:
        for path in directory.glob("*.parquet"):
            path.unlink()
    return DoneRows(pa.concat_tables(tables), was_killed)


def check_input(directory: Path, name: str, done: DoneRows, *, resume: bool) -> None:
    """Refuse to replace the predictions of another input by an oversight, and note the one that is predicted.

    A directory that was moved is the same input: rows of it are kept.

    Raises:
        StoreError: another input was predicted into the directory, and nothing of it can be kept.
    """
    path = directory / _INPUT
    before = read_json(path).get("input") if path.exists() else None
    if resume and before not in (None, name) and not len(done.rows):
        fix = "choose another output_dir, or set resume=false to replace them"
        raise StoreError(str(directory.parent), "output_dir", f"holds the predictions of {before}, not of {name}", fix)
    write_json(path, {"input": name})


def parts_to_do(directory: Path, plan: PredictionPlan, done: Collection[str], most: int) -> Iterator[ClipPart]:
    """Yield the clips that are left, in parts of ``most`` clips, of more where a speaker's clips stay together."""
    groups = [[place] for place in range(len(plan.keys))] if plan.by_speaker is None else plan.by_speaker
    waiting: list[tuple[str, ClipInput]] = []
    for places in groups:
        clips = [(plan.keys[place], plan.found.clips[place]) for place in places]
        waiting += [(key, clip) for key, clip in clips if key not in done and clip.problem is None]
        if len(waiting) >= most:
            yield _part(directory, waiting)
            waiting = []
    if waiting:
        yield _part(directory, waiting)


def without_torn_speakers(plan: PredictionPlan, done: DoneRows) -> DoneRows:
    """Leave out speakers of whom a clip is left to predict: it needs the features of their earlier ones."""
    if plan.by_speaker is None:
        return done
    known = done.keys
    wanted = {place for place, clip in enumerate(plan.found.clips) if clip.problem is None}
    whole = [
        plan.keys[place]
        for places in plan.by_speaker
        if all(plan.keys[place] in known for place in wanted & set(places))
        for place in places
    ]
    return replace(done, rows=done.rows.filter(pc.is_in(done.rows["key"], value_set=pa.array(whole, pa.string()))))


def keep_all(directory: Path, rows: pa.Table) -> None:
    """Put all rows into one file in place of the parts, which only an interrupted job needs."""
    with written_beside(directory / _ALL) as partial:
        pq.write_table(rows, partial)
    for path in directory.glob("*.parquet"):
        if path.name != _ALL:
            path.unlink()


def _part(directory: Path, clips: Sequence[tuple[str, ClipInput]]) -> ClipPart:
    name = sha256_of_json([key for key, _ in clips])[:16]
    return ClipPart(directory / f"{name}.parquet", tuple(clips))


def _rows_of(path: Path, schema: pa.Schema) -> pa.Table | None:
    """Return the rows of a part; None if it cannot be read; an empty table for one of another model."""
    try:
        with pq.ParquetFile(path) as file:
            if "key" not in file.schema_arrow.names:
                return None
            return file.read() if file.schema_arrow.equals(schema) else schema.empty_table()
    except (pa.ArrowException, OSError):
        return None


@dataclass(frozen=True)
class PredictionResult:
    """What a prediction did."""

    plan: PredictionPlan  # what was asked for
    directory: Path  # of the results
    rows: pa.Table  # of all clips, columns of ``vavl.prediction.worker.part_schema``
    kept: int  # clips that were predicted before, from the same files
    worked_on: int  # clips of this time
    seconds: float  # of work, this time


def predict_clips(plan: PredictionPlan, settings: PredictionSettings) -> PredictionResult:
    """Predict the clips of a plan that are not predicted yet; an interrupted call is continued by the next.

    Clips that cannot be predicted get a row that says why, and leave the others alone.

    Raises:
        InputError: the directory cannot be written.
        StoreError: another job is at work there, or another input was predicted into it.
        ConfigError: settings of an extractor do not fit together, or there is no GPU.
        TrainingError: Ray does not start, or processes end before they touch a clip.
    """
    start = time.monotonic()
    parts_directory = make_directory(settings.directory.absolute() / "parts")
    task = plan.model.task
    with only_job(parts_directory, "prediction"):
        wanted = [key for key, clip in zip(plan.keys, plan.found.clips, strict=True) if clip.problem is None]
        done = read_done(parts_directory, wanted, task, resume=settings.resume, retry_failed=settings.retry_failed)
        check_input(parts_directory, without_secrets(str(settings.input)), done, resume=settings.resume)
        done = without_torn_speakers(plan, done)
        keys = done.keys
        of_media = isinstance(plan.source, MediaSource)
        most = _CLIPS_OF_MEDIA if of_media else _CLIPS_OF_STORE
        parts = list(parts_to_do(parts_directory, plan, keys, most))
        total, left = len(plan.found.clips), sum(len(part.clips) for part in parts)
        if keys:
            logger.info("%d of %d clips are predicted already, from the same files", len(keys), total)
        tables = [done.rows, _known_problems(plan)]
        with Progress("predicting", total, total - left, "clips") as progress:
            for path, clips in _work(plan, settings, parts, was_killed=done.was_killed):
                tables.append(pq.read_table(path, schema=part_schema(task)))
                progress.advance(clips)
        rows = pa.concat_tables(tables)
        keep_all(parts_directory, rows)
    rows = decided(rows, task, plan.decision)  # what is kept does not depend on it
    return PredictionResult(plan, settings.directory, rows, len(keys), left, time.monotonic() - start)


def _work(
    plan: PredictionPlan, settings: PredictionSettings, parts: Sequence[ClipPart], *, was_killed: bool
) -> Iterator[tuple[Path, int]]:
    """Predict parts; yield file and number of clips of each when it is there, in any order."""
    if not parts:
        return
    count = sum(len(part.clips) for part in parts)
    if isinstance(plan.source, MediaSource):
        on_ray = uses_ray(settings, count * len(plan.source.modalities), was_killed)
    else:
        on_ray = uses_ray(settings, count, was_killed, _CLIPS_WORTH_RAY)
    limit = TimeLimit(settings.seconds_per_clip, ends_process=on_ray)
    device = "cuda" if settings.gpus_per_worker else "cpu"
    model = _shared_model(plan, settings.directory) if on_ray else plan.model_directory
    work = PredictionWork(model, plan.source, plan.conditions, settings.clips_per_batch, limit, device)
    if on_ray:
        # Reading Ray's package alone takes seconds.
        from vavl.workers.ray_pool import work_on_ray

        directories = (parts[0].path.parent, model, *plan.source.directories())
        yield from work_on_ray(parts, work, directories, settings, "prediction")
        return
    with threads_of_libraries(max(1, math.ceil(settings.cpus_per_worker))):
        yield from map(work, parts)


def _shared_model(plan: PredictionPlan, directory: Path) -> Path:
    """Copy the model next to the results: other machines may not see where it was downloaded to."""
    target = make_directory(directory.absolute() / _COPY)
    for name in _MODEL_FILES:
        with written_beside(target / name) as partial_copy:
            shutil.copyfile(plan.model_directory / name, partial_copy)
    return target


def _known_problems(plan: PredictionPlan) -> pa.Table:
    """Return the rows of clips of which names alone say that they cannot be predicted."""
    rows = [
        row
        for key, clip in zip(plan.keys, plan.found.clips, strict=True)
        if clip.problem is not None
        for row in rows_of(ClipWork(key, clip, problems=[Problem("", clip.name, clip.problem)]), plan.model.task)
    ]
    return pa.Table.from_pylist(rows, schema=part_schema(plan.model.task))
