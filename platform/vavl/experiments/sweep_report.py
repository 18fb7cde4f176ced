"""The report of a sweep: what it states, and its HTML page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vavl.corpora.manifest import Manifest
from vavl.experiments.study import storage_address
from vavl.experiments.sweep_plots import SweepAxis, SweepReport, SweepTrial, sweep_plots
from vavl.experiments.sweep_result import SweepResult
from vavl.experiments.sweep_settings import ChoiceAxis, name_of
from vavl.reports.plots import PLOTS_DIRECTORY, write_plots
from vavl.reports.render import write_page
from vavl.store.store_cache import local_notes

_NO_SHARES = ("ccc", "loss")
_TITLES = {
    "history": "History",
    "parallel_coordinates": "Settings and scores",
    "importance": "What decides",
    "epochs_saved": "Epochs saved",
    "front": "Front of the objectives",
}


def write_pages(result: SweepResult) -> list[Path]:
    """Write ``report.html`` and its plots into the directory of the sweep; nothing without a trial."""
    if not result.ends:
        return []
    report = write_report_page(sweep_report(result), result.plan.output_dir)
    plots = result.plan.output_dir / PLOTS_DIRECTORY
    return [report, plots] if plots.exists() else [report]


def sweep_report(result: SweepResult) -> SweepReport:
    """Return what the report states."""
    plan = result.plan
    training = result.plans.plan_of(0, {})
    corpus = Manifest.read(local_notes(training.data.store)).corpus
    measure = plan.objectives[0].metric.rpartition("/")[2]
    return SweepReport(
        title=f"Settings searched on {corpus}",
        corpus=corpus,
        objectives=[goal.metric.replace("/", " ").replace("_", " ") for goal in plan.objectives],
        signs=[goal.sign for goal in plan.objectives],
        is_share=not measure.startswith(_NO_SHARES),
        axes=[
            SweepAxis(
                path,
                [name_of(value) for value in axis.choices] if isinstance(axis, ChoiceAxis) else (),
                getattr(axis, "log", False),
            )
            for path, axis in plan.search.items()
        ],
        trials=list(_trials(result)),
        best=result.best.number if result.best else None,
        base=result.base.number if result.base else None,
        front=result.front,
        importances=result.importances,
        facts=_facts(result),
        waived_audit=training.data.waive_audit,
        speaker_normalisation=training.features.speaker_normalisation,
    )


def _trials(result: SweepResult) -> Iterator[SweepTrial]:
    for end in result.ends:
        yield SweepTrial(
            number=end.number,
            state=end.state,
            point={path: name_of(value) for path, value in result.points.get(end.number, {}).items()},
            scores=[end.metrics.get(goal.metric) for goal in result.plan.objectives],
            epochs_run=end.epochs_run,
            epochs_full=end.epochs_full,
            seconds=end.seconds,
            reason=end.reason,
        )


def _facts(result: SweepResult) -> dict[str, Any]:
    plan = result.plan
    training = result.plans.plan_of(0, {}).training
    pruner = plan.pruner
    return {
        "training configuration": plan.training,
        "overrides": ", ".join(f"{key}={value}" for key, value in plan.overrides.items()) or "none",
        "sampler": f"{plan.sampler}, seed {plan.seed}",
        "pruner": pruner.kind
        if pruner.kind == "none"
        else f"{pruner.kind}, first after {pruner.first_epochs} epochs",
        "longest time of a trial": "any"
        if plan.seconds_per_trial is None
        else f"{plan.seconds_per_trial:g} s",
        "workers of a trial": f"{training.least_workers}, {training.engine}, ZeRO {training.zero_stage}",
        "seed of all trials": training.seed,
        "feature store": result.plans.store,
        "study": f"{plan.output_dir.name} {result.run_id} in {storage_address(plan)}",
    }


def write_report_page(report: SweepReport, directory: Path) -> Path:
    """Write ``report.html`` and its plots into ``directory``; return the page's path."""
    plots = list(sweep_plots(report))
    write_plots(plots, directory)
    trials = sorted(
        report.trials,
        key=lambda trial: -report.signs[0] * trial.score if trial.score is not None else float("inf"),
    )
    return write_page(
        directory / "report.html",
        "experiments/sweep.html",
        report.title,
        f"{', '.join(report.objectives)}; {report.corpus}",
        report=report,
        trials=trials,
        best=None if report.best is None else report.trial(report.best),
        base=None if report.base is None else report.trial(report.base),
        plots={_TITLES[plot.name]: plot for plot in plots},
        as_text=_as_text,
    )


def _as_text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
