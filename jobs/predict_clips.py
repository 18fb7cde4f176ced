"""Predict clips with a trained model: python jobs/predict_clips.py CONFIG.yaml|DIRECTORY|FILE [key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.config.load import save_config
from vavl.job_config import PredictClipsJob
from vavl.prediction.plan import plan_prediction
from vavl.prediction.predict import predict_clips
from vavl.prediction.results import (
    plan_rows,
    prediction_summary,
    print_predictions,
    refuse_nothing,
    result_table,
    summary_rows,
    write_results,
)
from vavl.prediction.timeline_plot import check_timeline, write_timelines
from vavl.serving.model_address import resolve_model


def check(job: PredictClipsJob) -> None:
    """Find the model and the clips, and say what was found; open no media."""
    model = resolve_model(job.model, job.tracking)
    plan = plan_prediction(job, model.directory)
    check_timeline(plan, job)
    print_table(f"input {job.input}", plan_rows(plan, model.title))


def story(job: PredictClipsJob) -> None:
    """Predict what is not predicted yet, write rows, failures, timelines and summary."""
    model = resolve_model(job.model, job.tracking)
    result = predict_clips(plan_prediction(job, model.directory), job)
    table = result_table(result)
    files = write_results(result, table)
    timelines = [str(path) for path in write_timelines(result.plan, job, model.title)]

    save_config(job, job.directory / "config.yaml")
    address = {key: getattr(model, key) for key in ("address", "name", "version", "mlflow_run_id")}
    summary = prediction_summary(result, table, address, {**files, "timelines": timelines})
    write_json(job.directory / "summary.json", summary)
    print_predictions(table, result.plan)
    print_table(f"{job.directory}: predictions by {model.title}", summary_rows(summary))
    print(f"\nnext: look at {timelines[0] if timelines else files['csv']}")
    refuse_nothing(result, summary)


def main() -> int:
    """Run the job."""
    return run_job("Predict clips of a directory, file, manifest or store.", PredictClipsJob, story, check)


if __name__ == "__main__":
    raise SystemExit(main())
