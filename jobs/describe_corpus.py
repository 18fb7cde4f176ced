"""Propose a card for a directory of recordings: python jobs/describe_corpus.py DIRECTORY [dotted.key=value ...]."""

from __future__ import annotations

import shlex
from pathlib import Path

from vavl.config.command_line import print_table, run_job
from vavl.config.files import make_directory
from vavl.description.describe import corpus_name, describe_directory
from vavl.description.report import require_valid, summary_rows, write_results
from vavl.errors import ConfigError, CorpusError
from vavl.job_config import DescribeCorpusJob


def check(job: DescribeCorpusJob) -> None:
    """Look whether the directory is there and whether an older proposal would be lost; open no media."""
    if not job.folder.is_dir():
        raise CorpusError(str(job.folder), "folder", "there is no such directory", "check the path")
    card = _output(job) / "card.yaml"
    if card.exists() and not job.overwrite:
        raise ConfigError(
            str(card), "overwrite", "an earlier proposal is there, perhaps corrected by hand",
            "say overwrite=true to replace it, or choose another output_dir",
        )  # fmt: skip
    make_directory(_output(job))


def describe_corpus(job: DescribeCorpusJob) -> None:
    """Look at names, heads of media and tables; write the card, a page to look at and a summary."""
    found = describe_directory(
        job.folder, job.name or corpus_name(job.folder),
        cards=job.cards, most_files=job.most_files, probed_files=job.probed_files,
    )  # fmt: skip
    directory = _output(job)
    summary = write_results(found, directory, job.pictured_clips)
    print_table(f"directory {job.folder}", summary_rows(summary))
    print(f"\ncard: {directory / 'card.yaml'}\nlook: {directory / 'description.html'}")
    require_valid(found, directory)
    command = shlex.join(["python", "jobs/prepare_corpus.py", str(directory / "prepare.yaml")])
    print(f"next: answer the DECIDE lines of the card, then {command}")


def _output(job: DescribeCorpusJob) -> Path:
    return job.output_dir / (job.name or corpus_name(job.folder))


def main() -> int:
    """Run the job."""
    return run_job("Propose a card for a directory of recordings.", DescribeCorpusJob, describe_corpus, check)


if __name__ == "__main__":
    raise SystemExit(main())
