"""Look whether a corpus is fit to train on: python jobs/audit_corpus.py STORE|CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

import shlex

from vavl.audit.report import audit_card, audit_place, finding_rows, label_rows, refuse_failed, verdict
from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory
from vavl.corpora.card import corpus_root, read_card
from vavl.job_config import AuditCorpusJob
from vavl.store.store import read_content
from vavl.store.store_cache import local_store


def audit_corpus(job: AuditCorpusJob) -> None:
    """Make every check, write record, report and summary; a failed check is a failed job."""
    if job.card is not None and job.output_dir is not None:
        audit, report = audit_card(job.card, job.root, job.output_dir, job.audit)
    elif job.store is not None:
        audit, report = audit_place(job.store, job.output_dir, job.audit)
    print_table(f"labels and splits of {audit.corpus}", label_rows(audit))
    print_table(f"audit of {audit.corpus}: {verdict(audit)}", finding_rows(audit))
    print(f"\nnext: open {shlex.quote(str(report))}")
    refuse_failed(audit, str(job.store or job.card))


def check(job: AuditCorpusJob) -> None:
    """Look for the store or the corpus, and prove that the results can be written; check nothing yet."""
    if job.card is not None:
        corpus_root(read_card(job.card), job.root)
    elif job.store is not None:
        read_content(local_store(job.store))
    if job.output_dir is not None:
        make_directory(job.output_dir)


def main() -> int:
    """Run the job."""
    return run_job("Look whether a corpus is fit to train on.", AuditCorpusJob, audit_corpus, check)


if __name__ == "__main__":
    raise SystemExit(main())
