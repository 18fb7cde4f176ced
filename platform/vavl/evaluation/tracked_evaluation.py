"""An evaluation from the address of a model to its run in MLflow."""

from __future__ import annotations

import datetime as dt
import logging
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vavl.config.addresses import absolute_store
from vavl.config.base import FrozenConfig
from vavl.config.files import make_directory, write_json
from vavl.config.load import save_config
from vavl.errors import ConfigError
from vavl.evaluation.degradation import Degradations, open_degradations
from vavl.evaluation.evaluation import Evaluation, standing_of
from vavl.evaluation.measure import MeasuredClips, open_clips
from vavl.evaluation.results import PREDICTIONS_FILE, SUMMARY_FILE
from vavl.evaluation.settings import EVERY_SPLIT, EvaluationPlan
from vavl.metrics.names import CONDITIONS
from vavl.models.saved_model import SavedModel, load_model
from vavl.reports.plots import PLOTS_DIRECTORY
from vavl.serving.model_address import ResolvedModel, resolve_model
from vavl.serving.registry import register_model
from vavl.tracking.mlflow_writer import one_line, open_client
from vavl.tracking.relocation import refuse_moved
from vavl.tracking.run import DatasetNote, TrackedRun, run_page, run_start, source_tags
from vavl.tracking.settings import TrackingSettings, tracking_place, unreachable_reason
from vavl.training.run_directory import EARLIER_DIRECTORY, RUN_FILE, put_aside, read_record

_SPLIT_TAG = "vavl.evaluated_split"
_WITH_TEST = ("test", EVERY_SPLIT)
_MOST_EXPERIMENTS = 1000
_PAGE = 1000
_SHOWN = ("accuracy", "f1_macro", "uar", "calibration_error", "ccc_mean")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
    """What an evaluation starts from."""

    resolved: ResolvedModel  # where the model came from
    model: SavedModel  # on the device of the plan
    clips: MeasuredClips  # that it is measured on
    degradations: Degradations  # that can be measured


def open_evaluation(plan: EvaluationPlan, tracking: TrackingSettings) -> Opened:
    """Find model and clips and look whether they fit together; measures nothing.

    Raises:
        InputError, StoreError, ConfigError: model, store, split, classes or media cannot be used.
        TrackingError: the tracking store that holds the model does not answer.
    """
    if plan.device == "cuda" and not torch.cuda.is_available():
        fix = "set device=cpu, or run on a machine with a GPU"
        raise ConfigError("evaluation", "device", "there is no CUDA device", fix)
    make_directory(plan.output_dir)
    refuse_moved(tracking)
    resolved = resolve_model(plan.model, tracking)
    model = load_model(resolved.directory)
    model.network.to(plan.device)
    clips = open_clips(model, plan.data)
    return Opened(resolved, model, clips, open_degradations(model, plan, clips))


def preview_rows(opened: Opened) -> list[tuple[str, str]]:
    """Return the rows of the table that says what will be measured."""
    clips, manifest = opened.clips, opened.clips.collection.manifest
    fold = "" if clips.fold is None else f", fold {manifest.fold_title(clips.fold)} of {manifest.protocol}"
    named = [degradation.title for degradation, _ in opened.degradations.changes]
    rows = [
        ("model", f"{opened.resolved.title} ({opened.resolved.directory})"),
        ("clips", f"{len(clips.rows)} labeled, {clips.selection.split} of {manifest.corpus}{fold}"),
        ("speakers", str(len(set(clips.speaker_names.tolist())))),
        ("labels", manifest.target),
        ("conditions", ", ".join(clips.conditions)),
        ("degraded inputs", ", ".join(named) or "none"),
        *(("not measured", f"{name}: {why}") for name, why in opened.degradations.not_measured.items()),
    ]
    standing = standing_of(opened.model.description, clips)
    return [*rows, *(("NOTE", text) for text in (*standing.warnings, *standing.notes))]


class TrackedEvaluation(TrackedRun):
    """Records an evaluation; use as a context around it.

    What an earlier evaluation left in the directory is moved to ``earlier/<run id>``. A failure of the tracking
    server never reaches the evaluation.
    """

    def __init__(self, directory: Path, settings: TrackingSettings) -> None:
        make_directory(directory)
        if (record := read_record(directory, ["run_id"])) is not None:
            put_aside(directory, record["run_id"])
        settings = settings.model_copy(update={"system_metrics": False, "model_name": None})
        super().__init__(directory, settings, register_model)

    def start(self, config: FrozenConfig, opened: Opened) -> None:
        """Record settings, model and data; from here on the tracking server follows."""
        now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
        run_id = f"evaluation-{now}-{secrets.token_hex(2)}"
        write_json(self.directory / RUN_FILE, {"run_id": run_id})
        save_config(config, self.directory / "config.yaml")
        clips, resolved = opened.clips, opened.resolved
        dataset = _dataset(clips)
        tags = {
            **source_tags(),
            **dataset.tags,
            _SPLIT_TAG: clips.selection.split,
            "vavl.model": resolved.address,
            **({"vavl.model_name": resolved.name, "vavl.model_version": resolved.version} if resolved.name else {}),
            **({"vavl.fold": str(clips.fold)} if clips.fold is not None else {}),
        }
        name = self._settings.run_name or f"evaluation of {resolved.title}"
        settings = self._settings.model_copy(update={"run_name": name})
        payload = run_start(config, settings, run_id, dataset, tags)
        what = f"{clips.collection.manifest.corpus}.{clips.selection.split}"
        link = {"name": resolved.name, "version": resolved.version, "model_id": resolved.model_id, "what": what}
        self.journal.append("run_start", **payload, evaluates=link if resolved.name else None)
        self._follow(self.directory / EARLIER_DIRECTORY)

    def finish(self, metrics: Mapping[str, float]) -> dict[str, Any]:
        """Record the results, which lie in the directory, and wait for the tracking server.

        Returns:
            ``mlflow_run_id`` (None where the server does not hold the run yet) and ``tracking_complete``.
        """
        for name in ("config.yaml", "report.html", PLOTS_DIRECTORY, PREDICTIONS_FILE, SUMMARY_FILE):
            self.journal.append("artifact", path=name, artifact_path=None)
        return self._end("FINISHED", metrics, run_page(metrics, [], "report.html"))


def _dataset(clips: MeasuredClips) -> DatasetNote:
    store, manifest = clips.collection.store, clips.collection.manifest
    by_modality = {f"{name}_clips": int(clips.collection.has(name)[clips.rows].sum()) for name in store.info}
    return DatasetNote(
        name=manifest.corpus,
        store_hash=store.hash,
        path=str(absolute_store(clips.selection.store)),
        card=f"{manifest.corpus} (card hash {manifest.card_hash})",
        counts={"clips": len(clips.rows), **by_modality},
        context="evaluation",
    )


def result_rows(evaluation: Evaluation, summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table that an evaluation prints."""
    split, metrics = evaluation.clips.selection.split, summary["metrics"]
    rows = []
    for condition in CONDITIONS:
        keys = {name: f"{split}/{condition}/{name}" for name in _SHOWN}
        found = [f"{name} {metrics[key]:.3f}" for name, key in keys.items() if key in metrics]
        if found:
            low, high = summary["intervals"][f"{split}/{condition}/{evaluation.main_measure}"]
            interval = f"{evaluation.main_measure} {low:.3f} to {high:.3f}"
            rows.append((f"{split} {condition}", f"{'  '.join(found)}  (95 %: {interval})"))
    for name, change in summary["differences"].items():
        place, _, degradation = name.partition(":")
        rows.append((f"{degradation}, {place.split('/')[1]}", f"{change['value']:+.3f} {evaluation.main_measure}"))
    return [*rows, ("MLflow run", str(summary["mlflow_run_id"] or "not written yet; the journal has it"))]


def earlier_test_evaluations(clips: MeasuredClips, settings: TrackingSettings) -> str:
    """Say how many finished runs measured test clips of a store before; "" where no test clip is measured.

    Never fails: a tracking store that does not answer is what is said then.
    """
    if clips.selection.split not in _WITH_TEST:
        return ""
    store_hash = clips.collection.store.hash
    place = tracking_place(settings, os.environ)
    try:
        reason = unreachable_reason(place, settings.request_timeout_seconds)
        if reason is not None or (place.database is not None and not place.database.exists()):
            raise ConnectionError(reason or f"{place.database} does not exist")
        client = open_client(settings, place)
        of_store = f"tags.`vavl.store_hash` = '{store_hash}' and attributes.status = 'FINISHED'"
        runs = _count(client, f"{of_store} and params.`evaluation.test` = 'true'")
        evaluations = sum(_count(client, f"{of_store} and tags.`{_SPLIT_TAG}` = '{split}'") for split in _WITH_TEST)
    except Exception as error:  # noqa: BLE001  a statement of the report, no reason to stop
        _log.warning("how often the test split was measured before is not known: %s", one_line(error))
        return "how often the test split of this store was measured before is not known: the tracking store did not say"
    return (
        f"the tracking store knows {runs} finished training runs and {evaluations} finished evaluations that measured "
        "test clips of this store before this one; each further test evaluation makes a choice by its result more "
        "optimistic"
    )


def _count(client: Any, filter_string: str) -> int:
    experiments = [found.experiment_id for found in client.search_experiments(max_results=_MOST_EXPERIMENTS)]
    page = client.search_runs(experiments, filter_string, max_results=_PAGE)
    count = len(page)
    while page.token:
        page = client.search_runs(experiments, filter_string, max_results=_PAGE, page_token=page.token)
        count += len(page)
    return count
