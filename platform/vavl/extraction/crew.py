"""Who extracts the parts: this process, or workers of Ray."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial

from vavl.extraction.extraction_settings import ExtractionRun
from vavl.extraction.part import Part, PartResult, extract_part
from vavl.extraction.parts_folder import PartsFolder
from vavl.extraction.sources import Extract, Source
from vavl.workers.attempts import TimeLimit
from vavl.workers.local import threads_of_libraries, uses_ray


def extract_parts(folder: PartsFolder, run: ExtractionRun) -> Iterator[tuple[str, PartResult]]:
    """Extract the pending parts and yield file name and result of each when it is there, in any order.

    Raises:
        VavlError: what an extractor raised for other reasons than a clip.
        TrainingError: workers end before they touch a clip.
    """
    sources = folder.plan.sources
    # Video first: it takes longest.
    modalities = sorted(sources, reverse=True)
    away = [name for name in modalities if sources[name].in_workers and _pairs(folder, name)]
    here = [name for name in modalities if not sources[name].in_workers]
    if away and uses_ray(run, sum(_pairs(folder, name) for name in away), folder.was_killed):
        parts = [part.to_json() for name in away for part in folder.parts_left(name)]
        yield from extract_on_ray(parts, {name: sources[name] for name in away}, run)
    else:
        here = modalities
    extractor, limit = _made_once(sources), TimeLimit(run.seconds_per_clip, ends_process=False)
    with threads_of_libraries(math.ceil(run.cpus_per_worker)):
        for name in here:
            for part in folder.parts_left(name):
                yield part.path.name, extract_part(part, partial(extractor, name), limit)


def extract_on_ray(
    parts: Sequence[str], sources: Mapping[str, Source], run: ExtractionRun
) -> Iterator[tuple[str, PartResult]]:
    """Extract parts on Ray's workers and yield file name and result of each when it is there.

    Args:
        parts: text of ``Part.to_json``.
        sources: of their modalities; the workers get a copy.
        run: resources of a worker.

    Raises:
        VavlError: see ``vavl.workers.ray_pool.work_on_ray``.
    """
    # Reading Ray's package alone takes seconds.
    from vavl.workers.ray_pool import work_on_ray

    make = partial(_work_of_worker, sources, TimeLimit(run.seconds_per_clip, ends_process=True))
    for name, text in work_on_ray(parts, make, run, "extraction"):
        yield name, PartResult.from_json(text)


def _work_of_worker(sources: Mapping[str, Source], limit: TimeLimit) -> Callable[[str], tuple[str, str]]:
    """Return what a worker of Ray does with the text of a part."""
    from vavl.workers.ray_pool import check_shared

    extractor = _made_once(sources)

    def work(text: str) -> tuple[str, str]:
        part = Part.from_json(text)
        check_shared(part.root, part.path.parent)
        return part.path.name, extract_part(part, partial(extractor, part.modality), limit).to_json()

    return work


def _made_once(sources: Mapping[str, Source]) -> Callable[[str], Extract]:
    """Return a function that makes the extractor of a modality when it is first asked for."""
    return functools.cache(lambda modality: sources[modality].extractor())


def _pairs(folder: PartsFolder, modality: str) -> int:
    return sum(folder.plan.layout[name][number].length for name, number in folder.pending if name == modality)
