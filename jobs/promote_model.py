"""Let a model challenge the champion of its name: python jobs/promote_model.py CONFIG.yaml [dotted.key=value ...]."""

from __future__ import annotations

from vavl.config.command_line import print_table, run_job
from vavl.config.files import write_json
from vavl.job_config import PromoteModelJob
from vavl.promotion.promotion import check_promotion, promote, roll_back
from vavl.promotion.report import decision_rows, next_step, refuse
from vavl.training.driver_lock import only_driver


def promote_model(job: PromoteModelJob) -> None:
    """Compare both on the same clips and move the alias if the rule holds; or go back to the one before."""
    with only_driver(job.output_dir):
        decision = roll_back(job) if job.rollback else promote(job)
        write_json(job.output_dir / "summary.json", decision.as_dict())
    print_table(f"{job.output_dir}: {decision.model}@{decision.alias}", decision_rows(decision))
    print(f"\nnext: {next_step(job, decision)}")
    refuse(decision)


def main() -> int:
    """Run the job; exit code 1 also where the challenger did not become champion."""
    return run_job(
        "Compare a registered version with the champion and move the alias if the rule holds; or roll back.",
        PromoteModelJob,
        promote_model,
        check_promotion,
    )


if __name__ == "__main__":
    raise SystemExit(main())
