"""What a finished training leaves for people: facts, summary, table, report."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from vavl.config.addresses import absolute_store
from vavl.config.progress import process_seconds
from vavl.corpora.manifest import Manifest
from vavl.data.normalization import NORMALIZED_BY
from vavl.features import normalisation_kind
from vavl.metrics.names import CONDITIONS
from vavl.serving.registry import register_model
from vavl.store.store import read_content
from vavl.store.store_cache import local_store
from vavl.tracking.journal import Journal, count_events, run_events
from vavl.tracking.run import DatasetNote, TrackedRun, best_scores, run_page, run_start, source_tags
from vavl.tracking.settings import TrackingSettings
from vavl.training.loop import BEST_DIRECTORY
from vavl.training.pseudo_labels import PSEUDO_LABELS_FILE
from vavl.training.run_directory import EARLIER_DIRECTORY, OUTCOME_FILE
from vavl.training.settings import TrainingPlan
from vavl.training.throughput import EXPECTED_SECONDS, MFU
from vavl.training.worker import ENGINE_FILE, PARTITIONS_FILE, PREDICTIONS_DIRECTORY

_SHOWN = ("accuracy", "f1_macro", "uar", "ccc_mean")


def dataset_note(plan: TrainingPlan) -> DatasetNote:
    """Describe the data of a run for its lineage."""
    directory = local_store(plan.data.store)
    content, manifest = read_content(directory), Manifest.read(directory)
    sides = {f"{name}_clips": int(entry["clips"]) for name, entry in content["modalities"].items()}
    return DatasetNote(
        name=str(content["corpus"]),
        store_hash=str(content["store_hash"]),
        path=str(absolute_store(plan.data.store)),
        card=_cards_in_words(content, manifest),
        counts={"clips": len(manifest), **sides},
        waived=plan.data.waive_audit,
    )


def training_start(
    plan: TrainingPlan,
    tracking: TrackingSettings,
    run_id: str,
    tags: Mapping[str, str],
    parent: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the payload of ``run_start``: settings, data, ``tags``, and what tells the runs on one corpus apart."""
    dataset = dataset_note(plan)
    labels = plan.data.labels or Manifest.read(local_store(plan.data.store)).label_set
    own = {"vavl.config_hash": plan.config_hash, "vavl.fold": str(plan.data.fold), "vavl.seed": str(plan.training.seed)}
    chosen = {"vavl.label_set": labels} if labels else {}
    return run_start(plan, tracking, run_id, dataset, {**tags, **own, **dataset.tags, **chosen}, parent)


def _cards_in_words(content: Mapping[str, Any], manifest: Manifest) -> str:
    one = f"{manifest.corpus} (card hash {manifest.card_hash})"
    sources = content.get("sources", [])
    names = [f"{source['corpus']} (card hash {source['card_hash']}, store {source['version']})" for source in sources]
    return f"{one}, merged of {', '.join(names)}" if names else one


def training_summary(
    outcome: Mapping[str, Any], journal: Journal, first_step_seconds: float | None, since: float = 0.0
) -> dict[str, Any]:
    """Return the content of ``summary.json`` but for what the tracking server adds.

    Keys: ``metrics`` (flat, ``<split>/<condition>/<metric>``), ``best_epoch`` (from 1), ``epochs``,
    ``steps``, ``best_step`` (at the end of the best epoch), ``refit_steps`` (None unless it is a refit),
    ``clips_per_second`` (training steps alone), ``seconds_to_first_step`` (from the start of the command, or ``since``;
    None where an earlier attempt took it), ``seconds`` (of this attempt), ``expected_seconds``
    (forecast early in the last attempt) and ``mfu`` (a share of 1; None where not measured), ``workers``,
    ``zero_stage``, ``config_hash``, ``store_hash``, and what the scores
    belong to: ``corpus``, ``protocol``, ``fold``, ``label_set``, ``label_target``, ``clips``, ``speakers``,
    ``speaker_normalisation``, ``waived_audit`` (checks that may fail), ``rows_per_step``, ``partitions`` (training
    clips in words), ``frozen_parts``, ``parameters``, ``layer_weights`` (learned, by modality and layer),
    ``device`` (name of the GPU, or "cpu"); and what happened on the way: ``skipped_steps`` (loss or gradient
    not finite) and ``events`` (how often each, e.g. ``restarted``).
    """
    events = []
    forecast: Mapping[str, float] = {}
    for record in journal.read():
        if record.kind == "event":
            events.append(record)
        elif record.kind == "step":
            forecast = record.metrics if EXPECTED_SECONDS in record.metrics else forecast
    return {
        **outcome,
        "seconds_to_first_step": first_step_seconds,
        "seconds": process_seconds() - since,
        "expected_seconds": forecast.get(EXPECTED_SECONDS),
        "mfu": forecast.get(MFU),
        "events": count_events(run_events(events)),
    }


def label_words(outcome: Mapping[str, Any]) -> str:
    """Say what the labels of a run mean and which of the corpus' sets they are."""
    return (
        f"{outcome['label_target']} (set {outcome['label_set']})" if outcome["label_set"] else outcome["label_target"]
    )


def corpus_words(outcome: Mapping[str, Any]) -> str:
    """Name the corpus of a run; of a merged store all corpora in it."""
    corpora = outcome.get("corpora", [outcome["corpus"]])  # a comparison keeps runs of earlier versions
    return str(outcome["corpus"]) if len(corpora) == 1 else f"{outcome['corpus']} ({', '.join(corpora)})"


def version_tags(outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts shown with a registered version: origin, protocol and main scores."""
    facts = {name: outcome[name] for name in ("corpus", "protocol", "fold", "label_set", "label_target")}
    facts |= {name: outcome[name] for name in ("config_hash", "store_hash", "speaker_normalisation")}
    scores = {name: f"{value:.4f}" for name, value in outcome["metrics"].items() if name.split("/")[-1] in _SHOWN}
    refit = {"refit_steps": outcome["refit_steps"]} if outcome.get("refit_steps") is not None else {}
    waived = {"waived_audit": ", ".join(outcome["waived_audit"])} if outcome["waived_audit"] else {}
    return facts | refit | waived | scores


def chosen_words(outcome: Mapping[str, Any]) -> str:
    """Say which weights a run kept."""
    if outcome.get("refit_steps") is not None:
        return f"last of {outcome['refit_steps']} steps, refit on training and validation speakers"
    return f"best epoch {outcome['best_epoch']} of {outcome['epochs']}, chosen on validation"


def layer_words(outcome: Mapping[str, Any]) -> str:
    """Say how much each layer counts where their weights are learned; "" elsewhere."""
    return "; ".join(
        f"{modality} " + ", ".join(f"layer {number}: {share:.2f}" for number, share in shares.items())
        for modality, shares in outcome.get("layer_weights", {}).items()
    )


def end_tags(outcome: Mapping[str, Any]) -> dict[str, str]:
    """Return what a finished run is tagged with: its description, the best epoch, the device."""
    device = str(outcome.get("device", "unknown"))  # workers of an earlier version may have concluded the run
    facts = [
        chosen_words(outcome),
        f"{corpus_words(outcome)}, {outcome['protocol']}, fold {outcome['fold_title']}; labels: {label_words(outcome)}",
        f"{outcome['parameters']:,} parameters, {outcome['workers']} x {device}",
    ]
    return {
        **run_page(outcome["metrics"], facts, "report.html"),
        "vavl.best_epoch": str(outcome["best_epoch"]),
        "vavl.device": device,
    }


def result_rows(outcome: Mapping[str, Any], summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the rows of the table that a training prints."""
    rows = [
        ("protocol", f"{outcome['protocol']}, fold {outcome['fold_title']}, target: {label_words(outcome)}"),
        ("training clips", _training_clips(outcome["partitions"])),
        ("weights", chosen_words(outcome)),
    ]
    if layers := layer_words(outcome):
        rows.append(("layers", layers))
    metrics: Mapping[str, float] = outcome["metrics"]
    for split in ("validation", "test"):
        for condition in CONDITIONS:
            keys = {name: f"{split}/{condition}/{name}" for name in _SHOWN}
            found = [f"{name} {metrics[key]:.3f}" for name, key in keys.items() if key in metrics]
            if found:
                clips = int(metrics[f"{split}/{condition}/clips"])
                rows.append((f"{split} {condition}", f"{'  '.join(found)}  ({clips} clips)"))
    if summary["events"]:
        events = ", ".join(f"{what} {count} x" for what, count in summary["events"].items())
        rows.append(("on the way", f"{events} (see the report)"))
    if (kind := normalisation_kind(outcome["speaker_normalisation"])) != "none":
        rows.append(("NOTE", f"features are normalized per speaker: {NORMALIZED_BY[kind]}"))
    if outcome["waived_audit"]:
        rows.append(
            ("NOTE", f"trained although the audit of the store was waived: {', '.join(outcome['waived_audit'])}")
        )
    version = f"version {summary['model_version']}" if summary["model_version"] else "not registered"
    return [
        *rows,
        ("model", f"{summary['model_name'] or 'best/'}, {version}"),
        ("MLflow run", str(summary["mlflow_run_id"] or "not written yet; the journal has it")),
    ]


def _training_clips(partitions: Mapping[str, str]) -> str:
    """Return how many clips there are, how many of them labeled and paired; the rest stands in partitions.csv."""
    counts = {name: int(line.partition(" ")[0]) for name, line in partitions.items()}
    labeled = sum(count for name, count in counts.items() if not name.endswith("unlabelled"))
    paired = sum(count for name, count in counts.items() if name.startswith("paired"))
    return f"{sum(counts.values())}, {labeled} of them labeled, {paired} with audio and video; see partitions.csv"


_ARTIFACTS = (
    "config.yaml", "report.html", "plots", OUTCOME_FILE, PARTITIONS_FILE, ENGINE_FILE, PREDICTIONS_DIRECTORY,
    PSEUDO_LABELS_FILE,
)  # fmt: skip
"""What the directory of a run holds for the tracking server; not every run has all of it."""


class TrackedTraining(TrackedRun):
    """Records a training, its report and its model."""

    def __init__(self, directory: Path, settings: TrackingSettings) -> None:
        super().__init__(directory, settings, register_model)

    def start(self, plan: TrainingPlan, run_id: str) -> None:
        """Record settings, code and data; from here on the tracking server follows."""
        self.journal.append("run_start", **training_start(plan, self._settings, run_id, source_tags()))
        self._follow(self.directory / EARLIER_DIRECTORY)

    def finish(self, outcome: Mapping[str, Any]) -> dict[str, Any]:
        """Record results, plots and the model, and wait for the tracking server.

        Args:
            outcome: of the training; its metrics become ``best/...`` of the run. Report and model lie in the directory.

        Returns:
            ``mlflow_run_id``, ``model_name``, ``model_version`` (None where the server does not hold
            them yet) and ``tracking_complete``.
        """
        for artifact in _ARTIFACTS:
            if (self.directory / artifact).exists():
                # Relative, so that the journal stays true when the directory is moved or put aside.
                self.journal.append("artifact", path=artifact, artifact_path=None)
        name = self._settings.model_name
        if name is not None:
            self.journal.append("model", folder=BEST_DIRECTORY, name=name, tags=version_tags(outcome))
        kept = self._end("FINISHED", best_scores(outcome["metrics"]), end_tags(outcome))
        return {**kept, "model_name": name, "model_version": self._replayer.state.model_version}
