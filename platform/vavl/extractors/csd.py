"""Ready features of the CMU Multimodal SDK as one modality: the frames that lie in a clip's interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vavl.config.files import sha256_of_file
from vavl.corpora.card_sources import CsdSource
from vavl.corpora.csd import Segment, open_container, read_segments
from vavl.corpora.csv_table import place_inside
from vavl.errors import ClipError, CorpusError
from vavl.extractors.extracted import Extracted
from vavl.store.statistics import ModalityInfo

VERSION = "1"


@dataclass(frozen=True)
class CsdExtractor:
    """Cuts clips out of a container of features.

    Attributes:
        root: absolute corpus folder.
        source: of the card.
        segments: key -> interval of the clip.
    """

    root: Path
    source: CsdSource
    segments: dict[str, Segment] = field(repr=False)

    def extract(self, key: str) -> Extracted:
        """Return the frames whose middle lies in the clip; times count from the clip's start.

        Raises:
            ClipError: no such segment, no frame in it, another width, or values that are not finite
                where the card refuses them.
        """
        segment = self.segments.get(key)
        if segment is None:
            raise ClipError(
                self.source.segments.file, key, "there is no such segment", "prepare the corpus anew"
            )
        values, times = self._frames(segment)
        if values.shape[1] != self.source.width:
            raise ClipError(
                self.source.file, key, f"{values.shape[1]} features per frame, the card says {self.source.width}",
                "correct width in the card",
            )  # fmt: skip
        is_bad = ~np.isfinite(values)
        if is_bad.any() and self.source.non_finite == "refuse":
            raise ClipError(
                self.source.file, key, f"{int(is_bad.sum())} of {is_bad.size} values are NaN or infinite",
                "leave the clip out, or write non_finite: zero into the card",
            )  # fmt: skip
        bad = int(is_bad.sum())
        return Extracted(
            np.where(is_bad, np.float32(0), values),
            times,
            tally={"non_finite_values": bad},
            note=f"{bad} of {is_bad.size} values were NaN or infinite and are 0" if bad else None,
            facts={"seconds": segment.end - segment.start},
        )

    def _frames(self, segment: Segment) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return frames (time, channel) in the order of time, and their middles in seconds (time,)."""
        try:
            with open_container(self.root, self.source.file, self.source.sequence) as container:
                middles = container.intervals(segment.video).mean(axis=1)
                rows = np.flatnonzero((middles >= segment.start) & (middles < segment.end))
                if not len(rows):
                    raise ClipError(
                        self.source.file, segment.key,
                        f"no frame lies between {segment.start:g} and {segment.end:g} s", "leave the clip out",
                    )  # fmt: skip
                first = int(rows[0])
                read = container.features(segment.video, first, int(rows[-1]) + 1)
        except CorpusError as fault:
            raise ClipError(fault.file, f"{segment.key}: {fault.field}", fault.problem, fault.fix) from None
        order = rows[np.argsort(middles[rows], kind="stable")]
        return read[order - first], (middles[order] - segment.start).astype(np.float32)


def csd_extractor(root: Path, source: CsdSource) -> CsdExtractor:
    """Make the extractor; reads the intervals of all clips.

    Raises:
        CorpusError: the container of the segments is missing or broken.
    """
    segments = read_segments(root, source.segments.file, source.segments.sequence)
    return CsdExtractor(root, source, segments)


def csd_info(root: Path, source: CsdSource) -> ModalityInfo:
    """Return the provenance of features from a container: the hashes of both files.

    Raises:
        CorpusError: a file is missing or broken.
    """
    with open_container(root, source.file, source.sequence) as container:
        names = container.dimensions()
    features, segments = (
        sha256_of_file(place_inside(root, name))[:16] for name in (source.file, source.segments.file)
    )
    return ModalityInfo(
        extractor=f"csd:{features}",
        version=VERSION,
        settings={"segments": segments, "non_finite": source.non_finite},
        frame_rate_hz=None,
        width=source.width,
        channels=names if len(names) == source.width else (),
    )
