"""Extraction by workers of Ray Data."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

from vavl.features.attempts import TimeLimit
from vavl.features.crew import PartWorker
from vavl.features.extraction_settings import ExtractionRun
from vavl.features.part import Part, PartResult
from vavl.features.ray_crew import check_shared, work_on_ray
from vavl.features.sources import Source


def extract_on_ray(
    parts: Sequence[str], sources: Mapping[str, Source], run: ExtractionRun
) -> Iterator[tuple[str, PartResult]]:
    """Extract parts on Ray's workers and yield file name and result of each when it is there.

    Args:
        parts: text of ``Part.to_json``.
        sources: of their modalities; the workers get a copy.
        run: resources of a worker.

    Raises:
        VavlError: see ``vavl.features.ray_crew.work_on_ray``.
    """
    make = partial(_PartExtraction, sources, TimeLimit(run.seconds_per_clip, ends_process=True))
    for name, text in work_on_ray(parts, make, run, "extraction"):
        yield name, PartResult.from_json(text)


class _PartExtraction:
    """Extracts the parts that a worker of Ray gets."""

    def __init__(self, sources: Mapping[str, Source], limit: TimeLimit) -> None:
        self._worker = PartWorker(sources, limit)

    def __call__(self, text: str) -> tuple[str, str]:
        part = Part.from_json(text)
        check_shared(part.root, part.path.parent)
        return part.path.name, self._worker.work(part).to_json()
