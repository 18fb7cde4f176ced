"""Look at everything that a run needs, before the first run: one line per check, with its fix."""

from __future__ import annotations

import os

from rich.console import Console
from rich.text import Text

from vavl.config.command_line import run_job
from vavl.config.files import make_directory, write_json
from vavl.errors import VavlError
from vavl.job_config import CheckSetupJob
from vavl.setup_checks import Finding, count, run_checks

_COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def check_setup(job: CheckSetupJob) -> None:
    """Run all checks, print each when it is known, write the summary; a failed check is a failed job."""
    console = Console(highlight=False, soft_wrap=True)
    findings = []
    for finding in run_checks(job, os.environ):
        findings.append(finding)
        print_finding(console, finding)
    totals = count(findings)
    write_json(job.output_dir / "summary.json", {**totals, "checks": [vars(finding) for finding in findings]})
    console.print(f"\n{totals['ok']} ok, {totals['warn']} warn, {totals['fail']} fail")
    if totals["fail"]:
        names = ", ".join(finding.name for finding in findings if finding.status == "fail")
        raise VavlError("setup", names, f"{totals['fail']} checks failed", "follow the fixes above")


def print_finding(console: Console, finding: Finding) -> None:
    """Print one finding; a second line holds the fix."""
    status = Text(f"{finding.status:<5}", style=_COLOURS[finding.status])
    console.print(Text.assemble(status, f"{finding.name:<18} {finding.found}"))
    if finding.fix:
        console.print(Text(f"{'':<24}fix: {finding.fix}", style="dim"))


def check(job: CheckSetupJob) -> None:
    """Refuse an output directory that cannot be written."""
    make_directory(job.output_dir)


def main() -> int:
    """Run the job."""
    return run_job("Check that this machine is ready to train.", CheckSetupJob, check_setup, check)


if __name__ == "__main__":
    raise SystemExit(main())
