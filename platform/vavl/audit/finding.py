"""What a check found."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from typing import Any, Self

PREPARE_AGAIN = "prepare the corpus again with this version: python jobs/prepare_corpus.py CONFIG"


class State(StrEnum):
    """How a check ended; a failed one stops training unless it is waived."""

    PASSED = "passed"
    WARNING = "warning"
    FAILED = "failed"


class Check(StrEnum):
    """The checks, by the names that ``data.waive_audit`` takes."""

    SPEAKERS = "speakers"
    SPEAKER_NAMES = "speaker_names"
    DUPLICATE_FILES = "duplicate_files"
    EQUAL_FEATURES = "equal_features"
    NEAR_DUPLICATES = "near_duplicates"
    IDENTITY_CANARY = "identity_canary"
    BATCH_CANARY = "batch_canary"
    SENTENCES = "sentences"
    LABEL_BALANCE = "label_balance"
    LABEL_SETS = "label_sets"
    COUNTS = "counts"
    QUARANTINE = "quarantine"
    PARTNERS = "partners"
    DURATIONS = "durations"
    SIDE_LENGTHS = "side_lengths"
    SILENCE = "silence"
    CLIPPING = "clipping"
    FACES = "faces"


TITLES = {
    Check.SPEAKERS: "speakers across splits",
    Check.SPEAKER_NAMES: "names of speakers",
    Check.DUPLICATE_FILES: "equal files across splits",
    Check.EQUAL_FEATURES: "equal features across splits",
    Check.NEAR_DUPLICATES: "near-duplicates between train and test",
    Check.IDENTITY_CANARY: "canary: speaker and sentence alone",
    Check.BATCH_CANARY: "canary: labels of batch-mates",
    Check.SENTENCES: "sentences that tell the emotion",
    Check.LABEL_BALANCE: "label balance",
    Check.LABEL_SETS: "agreement of label sets",
    Check.COUNTS: "clips and speakers as the card expects",
    Check.QUARANTINE: "unreadable files",
    Check.PARTNERS: "clips without a partner",
    Check.DURATIONS: "durations",
    Check.SIDE_LENGTHS: "audio and video of equal length",
    Check.SILENCE: "silence",
    Check.CLIPPING: "clipping",
    Check.FACES: "frames without a face",
}
"""What a check is about, for people."""

CHANCE_DEVIATIONS = 4

Example = Mapping[str, Any]


@dataclass(frozen=True)
class Finding:
    """What one check says about a corpus.

    Attributes:
        text: one line for a person, with the numbers that matter.
        fix: what to do about it; dropped when it passed.
        numbers: JSON values, for plots and other programs.
        examples: clips or splits concerned, the worst first.
        labels: the label set it belongs to; None where labels do not matter.
        is_known: False where the check could not be made.
    """

    check: Check
    state: State
    text: str
    fix: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    examples: tuple[Example, ...] = ()
    labels: str | None = None
    is_known: bool = True

    def __post_init__(self) -> None:
        """Drop what to do where there is nothing to do."""
        if self.state == State.PASSED:
            object.__setattr__(self, "fix", "")

    @property
    def title(self) -> str:
        """What was looked at, with the label set."""
        return TITLES[self.check] + (f" ({self.labels})" if self.labels else "")

    def with_labels(self, name: str) -> Self:
        """Return the finding as one of the label set ``name``."""
        return replace(self, labels=name)

    def with_numbers(self, numbers: Mapping[str, Any]) -> Self:
        """Return the finding with further numbers."""
        return replace(self, numbers={**self.numbers, **numbers})

    def to_json(self) -> dict[str, Any]:
        """Return the finding as JSON values."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Self:
        """Read what ``to_json`` returned."""
        known = {**content, "check": Check(content["check"]), "state": State(content["state"])}
        return cls(**{**known, "examples": tuple(content["examples"])})


def not_known(check: Check, missing: str, fix: str) -> Finding:
    """Return the finding of a check that could not be made: never a silent pass."""
    return Finding(check, State.WARNING, f"not known: {missing}", fix, is_known=False)


def state_of(value: float, warning: float, failed: float) -> State:
    """Judge a value: above ``failed`` fails, above ``warning`` warns."""
    if value > failed:
        return State.FAILED
    return State.WARNING if value > warning else State.PASSED


def above_chance(score: float, chance: float, deviation: float) -> float:
    """Return by how much a score exceeds chance; 0 for less than four standard deviations, which may be chance."""
    return score - chance if score - chance > CHANCE_DEVIATIONS * deviation else 0.0


def with_unknown(finding: Finding, clips: int) -> Finding:
    """Return the finding with the number of clips that it could not look at: any of them is worth a warning."""
    if not clips:
        return finding
    state = State.WARNING if finding.state == State.PASSED else finding.state
    text = f"{finding.text}; not known of {clips:,} clip(s)"
    fix = finding.fix or "prepare the corpus again with this version"
    return replace(finding, state=state, text=text, fix=fix, numbers={**finding.numbers, "unknown": clips})
