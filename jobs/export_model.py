"""Export a model to ONNX and compare the file: python jobs/export_model.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.job_config import ExportModelJob
from vavl.models.saved_model import load_model
from vavl.serving.model_address import resolve_model
from vavl.serving.onnx_export import check_packages, export_onnx, output_names, result_rows


def export_model(job: ExportModelJob) -> None:
    """Write ``model.onnx`` and ``summary.json``."""
    resolved = resolve_model(job.model, job.tracking)
    exported = export_onnx(resolved.directory, job, job.output_dir)
    model = {"address": resolved.address, "name": resolved.name, "version": resolved.version}
    write_json(job.output_dir / "summary.json", {"model": model, **exported})
    print_table(f"{job.output_dir}: {resolved.title}", result_rows(exported))


def check(job: ExportModelJob) -> None:
    """Find the model and the packages, and say what is to be exported."""
    check_packages()
    resolved = resolve_model(job.model, job.tracking)
    model = load_model(resolved.directory)
    model.check_single_clips()
    outputs = ", ".join(output_names(model.description))
    print_table("what is exported", [("model", resolved.title), ("outputs", outputs)])


def main() -> int:
    """Run the job."""
    description = "Export the network of a registered model, or one in a directory, to ONNX."
    return run_job(description, ExportModelJob, export_model, check)


if __name__ == "__main__":
    raise SystemExit(main())
