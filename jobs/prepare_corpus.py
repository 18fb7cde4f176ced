"""Make a feature store from a corpus: python jobs/prepare_corpus.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import shlex

from vavl.audit.report import audit_and_report, failed_lines, verdict
from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.config.load import save_config
from vavl.corpora.card import read_card, require_decided
from vavl.corpora.manifest import build_manifest
from vavl.extraction.extract import extract_features
from vavl.extraction.face_preview import write_face_preview
from vavl.extraction.plan import plan_extraction, read_statement
from vavl.extraction.report import extraction_summary, summary_rows
from vavl.job_config import PrepareCorpusJob
from vavl.store.store_versions import check_target, push_finished


def check(job: PrepareCorpusJob) -> None:
    """Look at the card, the corpus directory, its clips and what is in the output directory; decode nothing."""
    require_decided(job.card)
    card = read_card(job.card)
    plan = plan_extraction(card, build_manifest(card, job.root), job.root, job.features, job.output_dir)
    if job.resume:
        read_statement(plan)
    if job.push_to is not None:
        check_target(job.push_to)


def story(job: PrepareCorpusJob) -> None:
    """Find the clips, extract their features, write the store, its audit and its summary."""
    card = read_card(job.card)
    manifest = build_manifest(card, job.root)
    plan = plan_extraction(card, manifest, job.root, job.features, job.output_dir)
    result = extract_features(plan, job)

    if job.faces_preview:
        write_face_preview(plan, job.faces_preview)

    save_config(job, job.output_dir / "config.yaml")
    audit = audit_and_report(job.output_dir)
    summary = extraction_summary(result) | {"audit": audit.summary()}
    write_json(job.output_dir / "summary.json", summary)
    rows = [*summary_rows(summary, job.output_dir), ("audit", f"{verdict(audit)}; see {job.output_dir}/audit.html")]
    place, rows = push_finished(job.output_dir, job.push_to, rows)
    print_table(f"features of {card.name}", rows)
    for line in failed_lines(audit):
        print(f"audit failed: {line}")
    print(f"\nnext: python jobs/train_model.py CONFIG.yaml {shlex.quote(f'data.store={place}')}")


def main() -> int:
    """Run the job."""
    return run_job("Make a feature store from a corpus of audio and video clips.", PrepareCorpusJob, story, check)


if __name__ == "__main__":
    raise SystemExit(main())
