"""The folder of the parts: what is finished, what is to do, and what can be used again."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vavl.config.files import write_json
from vavl.errors import StoreError
from vavl.extraction.part import Part, PartResult
from vavl.extraction.part_file import read_part_record
from vavl.extraction.plan import STATEMENT, ExtractionPlan, differences, read_statement

logger = logging.getLogger(__name__)

_NAME = re.compile(r"(?P<modality>[a-z]+)-\d+-(?P<key>[0-9a-f]+)\.parquet")


@dataclass(frozen=True)
class _OldPart:
    """A part whose file is not one of the plan's, or has clips in quarantine."""

    path: Path
    provenance: str
    first: str
    last: str


@dataclass
class PartsFolder:
    """The parts of a plan, as they are found at the start.

    Attributes:
        plan: what is to be extracted.
        finished: file name -> result of each part that needs no more work.
        pending: modality and number of each other part.
        was_killed: a process ended in the middle of a clip, in an earlier job.
    """

    plan: ExtractionPlan
    finished: dict[str, PartResult] = field(default_factory=dict)
    pending: list[tuple[str, int]] = field(default_factory=list)
    was_killed: bool = False
    _old: list[_OldPart] = field(default_factory=list)

    @property
    def pairs_left(self) -> int:
        """Number of (clip, modality) pairs in parts that are not finished."""
        return sum(self.plan.layout[modality][number].length for modality, number in self.pending)

    def parts_left(self, modality: str) -> Iterator[Part]:
        """Yield the pending parts of a modality with the older parts that may hold rows of theirs."""
        for name, number in self.pending:
            if name == modality:
                part = self.plan.part(modality, number)
                first, last = part.clips[0].clip_id, part.clips[-1].clip_id
                earlier = [
                    old.path
                    for old in self._old
                    if old.provenance == part.provenance and old.first <= last and first <= old.last
                ]
                yield self.plan.part(modality, number, sorted(earlier))

    def remove_rest(self) -> None:
        """Remove every file that is not of a finished extraction of this plan."""
        wanted = {STATEMENT, "lock"}
        for modality, places in self.plan.layout.items():
            wanted |= {self.plan.file_name(modality, number) for number in range(len(places))}
        for path in self.plan.parts_folder.iterdir():
            if path.name not in wanted:
                path.unlink()

    def _look(self) -> None:
        names = {
            (modality, place.key): self.plan.file_name(modality, number)
            for modality, places in self.plan.layout.items()
            for number, place in enumerate(places)
        }
        for path in sorted(self.plan.parts_folder.glob("*.parquet")):
            match = _NAME.fullmatch(path.name)
            record = read_part_record(path) if match else None
            if match is None or record is None:
                logger.warning("%s is damaged or of an older version; it is made again", path.name)
                path.unlink()
                continue
            name = names.get((match["modality"], match["key"]))
            if name is not None and name != path.name:
                # A part before it came or went.
                path = path.rename(path.with_name(name))  # noqa: PLW2901
            if name is not None and not record.quarantined:
                self.finished[name] = PartResult.of(record)
            elif record.clips:
                ids = list(record.clips)
                self._old.append(_OldPart(path, record.provenance, ids[0], ids[-1]))
        self.pending = [
            (modality, number)
            for modality, places in self.plan.layout.items()
            for number in range(len(places))
            if self.plan.file_name(modality, number) not in self.finished
        ]


def open_parts_folder(plan: ExtractionPlan, *, resume: bool) -> PartsFolder:
    """Look at what an earlier extraction left, and state what is extracted here now.

    Args:
        plan: what is wanted.
        resume: use what is there, or throw it away.

    Raises:
        StoreError: the folder holds another corpus.
    """
    folder = plan.parts_folder
    old = read_statement(plan) if resume else None
    if old is None:
        for path in folder.glob("*.*"):
            path.unlink()
    else:
        for line in differences(plan, old):
            logger.info("%s", line)
    was_killed = any(folder.glob(".*.current"))
    # Half-written files; a clip in which a killed job was at work gets a new chance.
    for path in (*plan.folder.glob(".*.partial"), *folder.glob(".*.*")):
        path.unlink()
    write_json(folder / STATEMENT, plan.statement())
    found = PartsFolder(plan, was_killed=was_killed)
    found._look()
    return found


@contextlib.contextmanager
def only_job(folder: Path, what: str = "store") -> Iterator[None]:
    """Hold the lock of the folder; the system frees it when the process ends, however it ends.

    Args:
        folder: of the parts, in that of the results.
        what: the results are, for the message.

    Raises:
        StoreError: another job holds it.
    """
    with (folder / "lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise StoreError(
                str(folder.parent), "", f"another job is writing this {what}", "wait for it, or end it"
            ) from None
        yield
