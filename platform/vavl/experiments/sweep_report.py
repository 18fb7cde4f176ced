"""The HTML page of a sweep."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from vavl.corpora.manifest import Manifest
from vavl.experiments.study import storage_address, study_name
from vavl.experiments.sweep_plots import is_share, sweep_plots, titles_of
from vavl.experiments.sweep_result import SweepResult
from vavl.reports.plots import PLOTS_DIRECTORY, write_plots
from vavl.reports.render import write_page
from vavl.store.store_cache import local_notes

_TITLES = {
    "history": "History",
    "parallel_coordinates": "Settings and scores",
    "importance": "What decides",
    "epochs_saved": "Epochs saved",
    "front": "Front of the objectives",
}


def write_pages(result: SweepResult) -> list[Path]:
    """Write ``report.html`` and its plots into the directory of the sweep; nothing without a trial.

    Returns:
        The page, and the directory of the plots if there are any.
    """
    if not result.ends:
        return []
    directory, plots = result.plan.output_dir, list(sweep_plots(result))
    write_plots(plots, directory)
    training = result.plans.plan_of(0, {})
    corpus, titles = Manifest.read(local_notes(training.data.store)).corpus, titles_of(result)
    sign = result.plan.objectives[0].sign

    def rank(score: float | None) -> float:
        return float("inf") if score is None else -sign * score

    page = write_page(
        directory / "report.html",
        "experiments/sweep.html",
        f"Settings searched on {corpus}",
        f"{', '.join(titles)}; {corpus}",
        result=result,
        training=training,
        titles=titles,
        names=[path.rpartition(".")[2] for path in result.plan.search],
        trials=sorted(result.ends, key=lambda end: rank(result.scores(end)[0])),
        plots={_TITLES[plot.name]: plot for plot in plots},
        facts={"corpus": corpus, **_facts(result)},
        as_text=lambda value: f"{value:.4g}" if isinstance(value, float) else str(value),
        is_share=is_share(result),
    )
    return [page, directory / PLOTS_DIRECTORY] if plots else [page]


def _facts(result: SweepResult) -> dict[str, Any]:
    plan = result.plan
    training = result.plans.plan_of(0, {}).training
    pruner = plan.pruner
    return {
        "training configuration": plan.training,
        "overrides": ", ".join(f"{key}={value}" for key, value in plan.overrides.items()) or "none",
        "sampler": f"{plan.sampler}, seed {plan.seed}",
        "pruner": pruner.kind if pruner.kind == "none" else f"{pruner.kind}, first after {pruner.first_epochs} epochs",
        "longest time of a trial": "any" if plan.seconds_per_trial is None else f"{plan.seconds_per_trial:g} s",
        "workers of a trial": f"{training.least_workers}, {training.engine}, ZeRO {training.zero_stage}",
        "seed of all trials": training.seed,
        "feature store": result.plans.store,
        "study": f"{study_name(plan, result.run_id)} in {storage_address(plan)}",
    }
