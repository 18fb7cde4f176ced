"""What a sweep has found: the best trial, the front, what each setting decides, and the epochs that were saved."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from vavl.config.changes import with_changes
from vavl.config.snapshot import resolved_settings
from vavl.tuning.axes import Value
from vavl.tuning.plans import TrialPlans
from vavl.tuning.pruning import score_of
from vavl.tuning.settings import SweepPlan
from vavl.tuning.sweep import BASE_TRIAL, Sweep
from vavl.tuning.trial import TrialEnd


@dataclass(frozen=True)
class SweepResult:
    """All results of a sweep.

    Attributes:
        plans: of its trials.
        run_id: of the sweep.
        ends: of all trials, by number.
        points: values of all trials, by number.
        best: the finished trial with the best objective, of several the best mean among the front.
        base: the trial with the training configuration's own values, if it finished.
        front: finished trials that no other beats in every objective.
        importances: share of each setting in what the first objective varies by, stopped trials included.
        gave_up: too many trials failed in a row.
    """

    plans: TrialPlans
    run_id: str
    ends: Sequence[TrialEnd]
    points: Mapping[int, Mapping[str, Value]]
    best: TrialEnd | None
    base: TrialEnd | None
    front: Sequence[int]
    importances: Mapping[str, float]
    gave_up: bool

    @property
    def plan(self) -> SweepPlan:
        """Settings of the sweep."""
        return self.plans.sweep

    def count(self, state: str) -> int:
        """Count the trials that ended like this."""
        return sum(end.state == state for end in self.ends)

    @property
    def epochs(self) -> tuple[int, int]:
        """Epochs that the trials were trained, and that they would have had without a stop; failed ones left out."""
        counted = [end for end in self.ends if end.state != "failed"]
        return sum(end.epochs_run for end in counted), sum(end.epochs_full for end in counted)

    @property
    def saved_share(self) -> float:
        """Share of the epochs that stopping early has saved."""
        run, full = self.epochs
        return 1 - run / full if full else 0.0

    def changes_of(self, end: TrialEnd) -> Mapping[str, Value]:
        """Return the values of a trial."""
        return self.points[end.number]


def result_of(sweep: Sweep) -> SweepResult:
    """Put together what a sweep has found so far."""
    ends = [sweep.ends[number] for number in sorted(sweep.ends)]
    front = [number for number in sweep.study.front() if number in sweep.ends]
    base = sweep.ends.get(BASE_TRIAL) if sweep.has_base else None
    return SweepResult(
        plans=sweep.plans,
        run_id=sweep.run_id,
        ends=ends,
        points=sweep.study.points(),
        best=best_of(sweep.plan, [sweep.ends[number] for number in front]),
        base=base if base and base.state == "finished" else None,
        front=front,
        importances=sweep.study.importances(_first_scores(sweep.plan, ends)),
        gave_up=sweep.gave_up,
    )


def _first_scores(plan: SweepPlan, ends: Sequence[TrialEnd]) -> dict[int, float]:
    """Return the first objective of all trials that have one, with the sign that makes more better."""
    goal = plan.objectives[0]
    return {
        end.number: goal.sign * end.metrics[goal.metric]
        for end in ends
        if end.state != "failed" and goal.metric in end.metrics
    }


def best_of(plan: SweepPlan, ends: Sequence[TrialEnd]) -> TrialEnd | None:
    """Return the finished trial with the best mean of the objectives, the first of equals."""
    scored = [
        (score, -end.number, end)
        for end in ends
        if end.state == "finished" and (score := score_of(plan.objectives, end.metrics)) is not None
    ]
    return max(scored, key=lambda entry: entry[:2])[2] if scored else None


def winning_settings(result: SweepResult, tracking: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration of the best trial as ``train_model`` reads it, to be trained in a folder of its own.

    Args:
        result: with a best trial.
        tracking: where to track where the training configuration does not say.
    """
    assert result.best is not None
    plans = result.plans
    plan = plans.plan_of(result.best.number, result.points[result.best.number])
    plan = plan.model_copy(update={"output_dir": plans.sweep.output_dir / "winner"})
    evaluation = plans.base.get("evaluation") or {}
    content = with_changes(
        resolved_settings(plan), {"evaluation.test": bool(evaluation.get("test", False))}, "the winner"
    )
    return {**content, "tracking": dict(plans.tracking or tracking)}


def words_of(point: Mapping[str, Value]) -> str:
    """Write the values of a trial in one line, the last part of each path alone."""
    return ", ".join(f"{path.rpartition('.')[2]}={_short(value)}" for path, value in point.items())


def _short(value: Value) -> str:
    if isinstance(value, float):
        return f"{value:.4g}"
    return value if isinstance(value, str) else json.dumps(value)
