"""Render the demo corpus: real .wav and .mp4 files of talking cartoon faces in six emotions."""

from __future__ import annotations

from demo_corpus.corpus import check_directory, render_corpus
from demo_corpus.settings import settings_hash
from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.job_config import MakeDemoCorpusJob


def check(config: MakeDemoCorpusJob) -> None:
    """Refuse a directory that holds something else."""
    check_directory(config.output_dir, config.corpus, config.overwrite)


def story(config: MakeDemoCorpusJob) -> None:
    """Render, write the summary, say what to do next."""
    report = render_corpus(config.output_dir, config.corpus, config.workers, config.overwrite)
    summary = {
        "clips": report.clips,
        "rendered": report.rendered,
        "seconds": round(report.seconds, 2),
        "clips_per_second": round(report.clips_per_second, 3),
        "media_seconds": round(report.media_seconds, 2),
        "seed": config.corpus.seed,
        "settings_hash": settings_hash(config.corpus),
    }
    write_json(config.output_dir / "summary.json", summary)
    rows = [
        ("clips", f"{report.clips} ({report.rendered} rendered now), {report.media_seconds / 60:.1f} minutes"),
        ("time", f"{report.seconds:.1f} s, {report.clips_per_second:.1f} clips/s"),
        ("directory", config.output_dir),
        ("faces", config.output_dir / "contact_sheet.png"),
        ("next", "python jobs/prepare_corpus.py jobs/configs/prepare/demo.yaml"),
    ]
    print_table("demo corpus", rows)


def main() -> int:
    """Run the job; return its exit code."""
    return run_job("Render the demo corpus of talking cartoon faces.", MakeDemoCorpusJob, story, check)


if __name__ == "__main__":
    raise SystemExit(main())
