"""What a person sees of a sweep: its space before it starts, and ``summary.json``, ``trials.csv`` and ``best.yaml``."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Self, get_args

import yaml

from vavl.config.base import FrozenConfig
from vavl.config.files import write_json, write_text
from vavl.config.load import resolved_settings, with_changes
from vavl.config.progress import process_seconds
from vavl.errors import TrainingError
from vavl.experiments.study import BASE_TRIAL, best_of, storage_address, study_name
from vavl.experiments.sweep import Sweep, TrialPlans, read_note
from vavl.experiments.sweep_settings import TRIALS_DIRECTORY, ChoiceAxis, Point, SweepPlan, name_of, words_of
from vavl.experiments.trials import SUMMARY_FILE, State, TrialEnd, write_csv
from vavl.training.launch import log_capacity
from vavl.training.settings import TrainingSettings

TABLE_FILE, BEST_FILE = "trials.csv", "best.yaml"
_log = logging.getLogger(__name__)
_STATES: tuple[State, ...] = get_args(State)


def log_sweep(plans: TrialPlans) -> None:
    """Log what is going to be searched, what a trial takes, and what is there already."""
    plan, own, training = plans.sweep, plans.own_point, plans.plan_of(0, {}).training
    plans.notes.log()
    for path in plan.search:
        _log.info(f"search {path}: {_axis_words(plan, path)}; now {name_of(own[path])}")
    _log.info("objectives: " + ", ".join(f"{goal.metric} ({goal.mode})" for goal in plan.objectives))
    pruner = plan.pruner
    stopped = "none is stopped early" if pruner.kind == "none" else f"{pruner.kind} from epoch {pruner.first_epochs} on"
    limit = "" if plan.seconds_per_trial is None else f", each at most {plan.seconds_per_trial:g} s"
    _log.info(f"{plan.most_trials} trials by {plan.sampler}; {stopped}{limit}")
    for point in plans.first_points:
        _log.info(f"tried first: {words_of(point) or 'drawn'}")
    _log.info(_trial_words(plan, training))
    log_capacity(training, "trials", training.least_workers)
    _log.info(f"study: {storage_address(plan)}")
    if note := read_note(plan.output_dir):
        ended = len(list(plan.output_dir.glob(f"{TRIALS_DIRECTORY}/*/{SUMMARY_FILE}")))
        _log.info(f"continues {note.run_id}: {ended} trials have ended already")


def _axis_words(plan: SweepPlan, path: str) -> str:
    axis = plan.search[path]
    if isinstance(axis, ChoiceAxis):
        return f"one of {', '.join(str(name_of(value)) for value in axis.choices)}"
    spread = "over the logarithm" if axis.log else f"in steps of {axis.step:g}" if axis.step else ""
    words = f"{'whole numbers ' if axis.is_whole else ''}{axis.low:g} to {axis.last:g} {spread}"
    return words.strip()


def _trial_words(plan: SweepPlan, training: TrainingSettings) -> str:
    """Say what a trial takes, and what decides how many run at once."""
    cpus = training.least_workers * training.cpus_per_worker
    gpus = training.least_workers * training.gpus_per_worker
    asked = f"{training.least_workers} worker(s), {cpus:g} CPUs" + (f", {gpus:g} GPUs" if gpus else "")
    epochs = f"a trial: {asked}, {training.max_epochs} epochs at most"
    if plan.at_once is not None:
        return f"{epochs}; {plan.at_once} at once, as far as Ray has resources"
    return (
        f"{epochs}; at once as many as resources and memory allow, which the first trial tells: "
        "it runs alone until its first epoch"
    )


@dataclass(frozen=True)
class SweepResult:
    """What a sweep has found so far."""

    plan: SweepPlan  # settings of the sweep
    plans: TrialPlans  # make the plan of a trial
    run_id: str  # of the sweep
    gave_up: bool  # too many trials failed one after the other
    ends: Sequence[TrialEnd]  # of the trials that have ended, by number
    points: Mapping[int, Point]  # values of all trials by number
    front: Sequence[int]  # numbers of the finished trials that no other beats in every objective
    # share of each setting in what the first objective varies by, stopped trials included; empty where too few
    # trials have a score
    importances: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def of(cls, sweep: Sweep) -> Self:
        """Return what a sweep has found by now."""
        ends = [sweep.ends[number] for number in sorted(sweep.ends)]
        front = [number for number in sweep.study.front() if number in sweep.ends]
        found = cls(sweep.plan, sweep.plans, sweep.run_id, sweep.gave_up, ends, sweep.study.points(), front)
        sign = sweep.plan.objectives[0].sign
        scores = {end.number: sign * score for end in found.scored if (score := found.scores(end)[0]) is not None}
        return replace(found, importances=sweep.study.importances(scores))

    @property
    def best(self) -> TrialEnd | None:
        """The trial of the front with the best mean of the objectives."""
        return best_of(self.plan, [end for end in self.ends if end.number in self.front])

    @property
    def base(self) -> TrialEnd | None:
        """The trial with the training configuration's own values, if it finished."""
        first = self.ends[0] if self.plan.has_base and self.ends else None
        return first if first and (first.number, first.state) == (BASE_TRIAL, "finished") else None

    @property
    def best_name(self) -> str | None:
        """Name of the best trial's directory."""
        return self.plan.trial_directory(self.best.number).name if self.best else None

    @property
    def scored(self) -> list[TrialEnd]:
        """Trials with a score of the first objective; failed ones left out."""
        return [end for end in self.ends if end.state != "failed" and self.scores(end)[0] is not None]

    def scores(self, end: TrialEnd) -> list[float | None]:
        """Return the objectives of a trial, None where one was not measured."""
        return [end.metrics.get(goal.metric) for goal in self.plan.objectives]

    def point(self, end: TrialEnd) -> dict[str, Any]:
        """Return the values of a trial by dotted path, lists and sections as text."""
        return {path: name_of(value) for path, value in self.points.get(end.number, {}).items()}

    def count(self, state: str) -> int:
        """Count the trials that ended like this."""
        return sum(end.state == state for end in self.ends)

    @property
    def gain(self) -> dict[str, float]:
        """Best minus base by objective; empty where one of them is missing."""
        if self.best is None or self.base is None:
            return {}
        names = [goal.metric for goal in self.plan.objectives]
        return {name: self.best.metrics[name] - self.base.metrics[name] for name in names}

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


def winning_settings(result: SweepResult, tracking: Mapping[str, object]) -> dict[str, object]:
    """Return the configuration of the best trial as ``train_model`` reads it, to be trained in its own directory."""
    assert result.best is not None
    plans = result.plans
    plan = plans.plan_of(result.best.number, result.points[result.best.number])
    plan = plan.model_copy(update={"output_dir": plans.sweep.output_dir / "winner"})
    test = bool((plans.base.get("evaluation") or {}).get("test", False))
    content = with_changes(resolved_settings(plan), {"evaluation.test": test}, "the winner")
    return {**content, "tracking": dict(plans.tracking or tracking)}


def sweep_summary(result: SweepResult) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for what the tracking server adds.

    Keys: ``trials``, ``finished``, ``pruned`` (stopped before their end), ``failed``; ``failures``: number and
    reason of each; ``epochs_run``, ``epochs_full`` (without any stop; failed trials left out), ``epochs_saved``
    (share); ``best``: ``trial``, ``overrides`` (by dotted path), ``metrics`` (validation, of its best epoch),
    None without a finished trial; ``base``: likewise of the training configuration's own values; ``gain``: best
    minus base by objective; ``front``: trials that no other beats in every objective; ``importances``;
    ``winning_config``: path of ``best.yaml``; ``study``: ``name`` and ``storage``, as the Optuna dashboard wants them;
    ``seconds`` of this command so far, ``training_seconds`` of the last attempts of all trials together,
    ``memory_gb`` of the largest trial; ``gave_up``.
    """
    plan, (run, full) = result.plan, result.epochs
    return {
        "trials": len(result.ends),
        **{state: result.count(state) for state in _STATES},
        "failures": [{"trial": end.number, "reason": end.reason} for end in result.ends if end.state == "failed"],
        "objectives": [goal.model_dump() for goal in plan.objectives],
        "epochs_run": run,
        "epochs_full": full,
        "epochs_saved": result.saved_share,
        "best": _entry(result, result.best),
        "base": _entry(result, result.base),
        "gain": result.gain,
        "front": list(result.front),
        "importances": dict(result.importances),
        "winning_config": str(plan.output_dir / BEST_FILE) if result.best else None,
        "study": {"name": study_name(plan, result.run_id), "storage": storage_address(plan)},
        "seconds": process_seconds(),
        "training_seconds": sum(end.seconds for end in result.ends),
        "memory_gb": max((end.memory_gb for end in result.ends if end.memory_gb), default=None),
        "gave_up": result.gave_up,
    }


def write_results(result: SweepResult, tracking: FrozenConfig, further: Mapping[str, Any]) -> list[Path]:
    """Write ``summary.json`` with ``further`` keys, ``trials.csv`` and ``best.yaml``; return the files."""
    directory = result.plan.output_dir
    write_json(directory / SUMMARY_FILE, {**sweep_summary(result), **further})
    files = [directory / SUMMARY_FILE, _write_table(result, directory / TABLE_FILE)]
    if result.best is not None:
        content = winning_settings(result, resolved_settings(tracking))
        train = shlex.join(["python", "jobs/train_model.py", str(directory / BEST_FILE)])
        head = (
            f"# The best of {len(result.ends)} trials, trial {result.best.number} of {directory}: "
            f"{words_of(result.points[result.best.number])}\n# {train}\n"
        )
        write_text(directory / BEST_FILE, head + yaml.safe_dump(content, sort_keys=False, allow_unicode=True))
        files.append(directory / BEST_FILE)
    return files


def result_rows(result: SweepResult, kept: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table that the job prints."""
    run, full = result.epochs
    rows = [
        ("trials", f"{len(result.ends)}: {', '.join(f'{result.count(state)} {state}' for state in _STATES)}"),
        ("epochs", f"{run} of {full}, {100 * result.saved_share:.0f} % saved by early stopping"),
    ]
    for title, end in (("best", result.best), ("base", result.base)):
        if end is not None:
            scores = result.plan.scores_in_words(end.metrics)
            rows.append((title, f"{scores}   trial {end.number}: {words_of(result.points[end.number])}"))
    if result.best is None:
        rows.append(("best", "no trial has finished"))
    rows += [
        ("failed", f"trial {end.number}: {end.reason.splitlines()[0]}") for end in result.ends if end.state == "failed"
    ]
    if kept.get("model_name"):
        version = kept.get("model_version") or "not registered yet"
        rows.append(("model", f"{kept['model_name']}, version {version}"))
    return [*rows, ("MLflow run", str(kept.get("mlflow_run_id") or "not written yet; the journal has it"))]


def refuse_nothing_found(result: SweepResult) -> None:
    """Raise when no trial has finished; everything else is written by then.

    Raises:
        TrainingError: names the first failed trial and its reason.
    """
    if result.best is None:
        failed = next((end for end in result.ends if end.state == "failed"), None)
        why = f"trial {failed.number}: {failed.reason}" if failed else "all trials were stopped before their end"
        fix = "repair the cause and start with another output_dir, or with more trials"
        raise TrainingError(str(result.plan.output_dir / SUMMARY_FILE), "best", f"no trial has finished; {why}", fix)


def _entry(result: SweepResult, end: TrialEnd | None) -> dict[str, Any] | None:
    if end is None:
        return None
    return {"trial": end.number, "overrides": dict(result.points[end.number]), "metrics": dict(end.metrics)}


def _write_table(result: SweepResult, path: Path) -> Path:
    """Write one row per trial."""
    metrics = [goal.metric for goal in result.plan.objectives]
    kept = ("epochs_run", "epochs_full", "seconds", "memory_gb", "reason")
    rows = [
        {
            "trial": end.number,
            "state": end.state,
            **{name: end.metrics.get(name) for name in metrics},
            **result.point(end),
            "is_base": result.base is not None and end.number == BASE_TRIAL,
            **{name: getattr(end, name) for name in kept},
            "seconds": round(end.seconds, 1),
        }
        for end in result.ends
    ]
    return write_csv(path, ["trial", "state", *metrics, *result.plan.search, "is_base", *kept], rows)


def main_metrics(result: SweepResult) -> dict[str, float]:
    """Return what the parent run shows: the best trial's metrics, the gain, and the epochs."""
    run, full = result.epochs
    found: dict[str, float] = {
        "sweep/trials": len(result.ends),
        "sweep/epochs_run": run,
        "sweep/epochs_full": full,
        "sweep/epochs_saved_share": result.saved_share,
        **{f"sweep/{state}": result.count(state) for state in _STATES},
        **{f"gain/{name}": value for name, value in result.gain.items()},
    }
    if result.best is not None:
        found |= {f"best/{name}": value for name, value in result.best.metrics.items()}
    return found
