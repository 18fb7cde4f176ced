"""Who extracts the parts: this process, or workers of Ray."""

from __future__ import annotations

import contextlib
import logging
import math
from collections.abc import Iterator, Mapping
from functools import partial

import cv2
import torch

from vavl.features.attempts import TimeLimit
from vavl.features.extraction_settings import ExtractionRun, WorkerSettings
from vavl.features.part import Part, PartResult, extract_part
from vavl.features.parts_folder import PartsFolder
from vavl.features.sources import Extract, Source

logger = logging.getLogger(__name__)

_PAIRS_WORTH_RAY = 64
"""Ray and its workers take some ten seconds to start; so many files are extracted meanwhile."""


class PartWorker:
    """Extracts parts; makes each extractor once, when the first part needs it.

    Args:
        sources: of each modality.
        limit: longest time for one clip.
    """

    def __init__(self, sources: Mapping[str, Source], limit: TimeLimit) -> None:
        self._sources, self._limit = sources, limit
        self._extractors: dict[str, Extract] = {}

    def work(self, part: Part) -> PartResult:
        """Extract a part; see ``extract_part``."""
        return extract_part(part, partial(self._extractor, part.modality), self._limit)

    def _extractor(self, modality: str) -> Extract:
        if modality not in self._extractors:
            self._extractors[modality] = self._sources[modality].extractor()
        return self._extractors[modality]


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
        # Reading Ray's package alone takes seconds.
        from vavl.features.ray_extraction import extract_on_ray

        parts = [part.to_json() for name in away for part in folder.parts_left(name)]
        yield from extract_on_ray(parts, {name: sources[name] for name in away}, run)
    else:
        here = modalities
    worker = PartWorker(sources, TimeLimit(run.seconds_per_clip, ends_process=False))
    with threads_of_libraries(math.ceil(run.cpus_per_worker)):
        for name in here:
            for part in folder.parts_left(name):
                yield part.path.name, worker.work(part)


def uses_ray(
    run: WorkerSettings, pairs: int, was_killed: bool, pairs_worth_ray: int = _PAIRS_WORTH_RAY
) -> bool:
    """Decide whether Ray's workers do the work, and say why.

    Args:
        run: the settings; ``workers`` null leaves the choice to this function.
        pairs: (clip, modality) pairs to do.
        was_killed: an earlier process ended in the middle of a clip: it may do so again.
        pairs_worth_ray: so many are done here while workers would start.
    """
    if run.workers is not None:
        return run.workers > 0
    if was_killed:
        logger.info("an earlier job ended in the middle of a clip: workers go on, which may end")
        return True
    if pairs <= pairs_worth_ray:
        logger.info("%d files: this process reads them, workers would take longer to start", pairs)
    return pairs > pairs_worth_ray


@contextlib.contextmanager
def threads_of_libraries(count: int) -> Iterator[None]:
    """Let the libraries of this process use ``count`` threads each; afterwards as many as before."""
    before = torch.get_num_threads(), cv2.getNumThreads()
    set_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before[0])
        cv2.setNumThreads(before[1])


def set_threads(count: int) -> None:
    """Let the libraries of this process use ``count`` threads each."""
    torch.set_num_threads(count)
    cv2.setNumThreads(count)


def _pairs(folder: PartsFolder, modality: str) -> int:
    return sum(folder.plan.layout[name][number].length for name, number in folder.pending if name == modality)
