"""The report of a sweep as one HTML page."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vavl.experiments.sweep_content import SweepReport, SweepTrial
from vavl.experiments.sweep_pictures import sweep_pictures
from vavl.reports import page
from vavl.reports.page import Html, Tile
from vavl.reports.pictures import Picture, write_pictures

PICTURES_FOLDER = "pictures"
_TITLES = {
    "history": "History", "parallel_coordinates": "Settings and scores", "importance": "What decides",
    "epochs_saved": "Epochs saved", "front": "Front of the objectives",
}  # fmt: skip


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
