"""The report of a sweep: what it states, and its HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vavl.corpora.manifest import Manifest
from vavl.experiments.study import storage_address
from vavl.experiments.sweep_plots import SweepAxis, SweepReport, SweepTrial, sweep_pictures
from vavl.experiments.sweep_result import SweepResult
from vavl.experiments.sweep_settings import ChoiceAxis, name_of
from vavl.reports import page
from vavl.reports.page import Html, Tile
from vavl.reports.pictures import Picture, write_pictures
from vavl.store.store_cache import local_notes

PICTURES_FOLDER = "pictures"
_NO_SHARES = ("ccc", "loss")
_TITLES = {
    "history": "History", "parallel_coordinates": "Settings and scores", "importance": "What decides",
    "epochs_saved": "Epochs saved", "front": "Front of the objectives",
}  # fmt: skip


def write_pages(result: SweepResult) -> list[Path]:
    """Write ``report.html`` and ``pictures/`` into the folder of the sweep; nothing without a trial."""
    if not result.ends:
        return []
    folder = result.plan.output_dir
    report = write_sweep_report(sweep_report(result), folder)
    pictures = folder / PICTURES_FOLDER
    return [report, pictures] if pictures.exists() else [report]


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
            SweepAxis(path, [name_of(value) for value in axis.choices] if isinstance(axis, ChoiceAxis) else (),
                      getattr(axis, "log", False))
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
    )  # fmt: skip


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


def write_sweep_report(report: SweepReport, folder: Path) -> Path:
    """Write ``report.html`` and ``pictures/*.png`` into ``folder``; return the page's path."""
    drawn = list(sweep_pictures(report))
    write_pictures(drawn, folder / PICTURES_FOLDER)
    subtitle = f"{', '.join(report.objectives)}; {report.corpus}"
    return page.write_page(folder / "report.html", report.title, subtitle, _parts(report, drawn))


def _parts(report: SweepReport, drawn: Sequence[Picture]) -> Iterator[Html]:
    if report.speaker_normalisation:
        yield page.speaker_normalisation_mark()
    if report.waived_audit:
        yield page.waived_audit_mark(report.waived_audit)
    yield page.mark(
        "Chosen on validation",
        f"The best of {len(report.trials)} trials was chosen on the clips that it is scored on here, and so was "
        "the epoch of every trial: its score is too high by as much as luck allows. The test split was not "
        "measured; train the winning configuration with evaluation.test to measure it once.",
    )
    yield page.tiles(list(_tiles(report)))
    if report.best is not None:
        yield page.section("The winning settings", _winner(report))
    for picture in drawn:
        yield page.section(_TITLES[picture.name], page.pictures([picture], large=True))
    yield page.section("Trials", _table(report))
    yield page.section("What was searched", page.facts({"corpus": report.corpus, **report.facts}))
    failed = {f"trial {trial.number}": trial.reason for trial in report.trials if trial.state == "failed"}
    if failed:
        yield page.section("Failed", page.facts(failed))


def _tiles(report: SweepReport) -> Iterator[Tile]:
    run, full = report.epochs
    if report.best is not None:
        yield Tile(report.text(report.trial(report.best).score), f"best: trial {report.best}", "audio_video")
    if report.base is not None:
        yield Tile(report.text(report.trial(report.base).score), "the training configuration")
    for state in ("finished", "pruned", "failed"):
        yield Tile(str(sum(trial.state == state for trial in report.trials)), f"trials {state}")
    if full:
        yield Tile(f"{100 * (1 - run / full):.0f} %", f"of {full} epochs saved")


def _winner(report: SweepReport) -> Html:
    assert report.best is not None
    best = report.trial(report.best)
    base = None if report.base is None else report.trial(report.base)
    header = ["setting", "best", *(["training configuration"] if base else [])]
    rows: list[list[Any]] = [
        [axis.path, _shown(best.point[axis.path]), *([_shown(base.point[axis.path])] if base else [])]
        for axis in report.axes
    ]
    for place, title in enumerate(report.objectives):
        scores = [_score(best, place), *([_score(base, place)] if base else [])]
        rows.append([title, *scores])
    return page.table(header, rows)


def _table(report: SweepReport) -> Html:
    header = [
        "trial",
        *report.objectives,
        *(axis.path.rpartition(".")[2] for axis in report.axes),
        "epochs",
        "seconds",
    ]
    ordered = sorted(
        report.trials,
        key=lambda trial: -report.signs[0] * trial.score if trial.score is not None else float("inf"),
    )
    rows = [
        [
            page.with_small(str(trial.number), trial.state),
            *(_score(trial, place) for place in range(len(report.objectives))),
            *(_shown(trial.point.get(axis.path)) for axis in report.axes),
            f"{trial.epochs_run} of {trial.epochs_full}", f"{trial.seconds:.0f}",
        ]
        for trial in ordered
    ]  # fmt: skip
    return page.table(header, rows)


def _score(trial: SweepTrial, place: int) -> str:
    score = trial.scores[place] if place < len(trial.scores) else None
    return "-" if score is None else f"{score:.3f}"


def _shown(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
