"""The folder of a run: who it belongs to, and what happens to an earlier run in it."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from vavl.config.files import make_folder, read_json, write_json
from vavl.config.snapshot import save_config
from vavl.training.settings import TrainingPlan

_log = logging.getLogger(__name__)

_RUN_FILE = "run.json"
EARLIER_FOLDER = "earlier"


@dataclass(frozen=True)
class RunFolder:
    """An output folder that belongs to one run.

    Attributes:
        path: the folder.
        run_id: of the run, e.g. ``20260301-142233-9f3a``.
        is_resumed: True when an unfinished run of the same configuration goes on.
    """

    path: Path
    run_id: str
    is_resumed: bool

    def finish(self) -> None:
        """Mark the run as finished: the next start in this folder is a new run."""
        write_json(self.path / _RUN_FILE, {**read_json(self.path / _RUN_FILE), "state": "finished"})


def claim_run_folder(plan: TrainingPlan) -> RunFolder:
    """Continue the unfinished run of the folder, or make place for a new one.

    With ``training.resume: auto`` an unfinished run of the same configuration is continued. Anything
    else that the folder holds is moved to ``earlier/<run id>``; nothing is deleted.

    Raises:
        InputError: the folder cannot be written.
    """
    folder = make_folder(plan.output_dir)
    file = folder / _RUN_FILE
    hash_now = plan.config_hash
    if file.exists():
        earlier = read_json(file)
        same = earlier["config_hash"] == hash_now
        if earlier["state"] == "running" and same and plan.training.resume == "auto":
            _log.info("continuing run %s in %s", earlier["run_id"], folder)
            return RunFolder(folder, earlier["run_id"], is_resumed=True)
        _put_aside(folder, earlier["run_id"])
        reason = (
            "is finished"
            if earlier["state"] == "finished"
            else "is not continued (resume=never or other settings)"
        )
        _log.info(
            "run %s %s; it is kept in %s/%s",
            earlier["run_id"],
            reason,
            folder / EARLIER_FOLDER,
            earlier["run_id"],
        )
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{now}-{secrets.token_hex(2)}"
    save_config(plan, folder / "config.yaml")
    write_json(file, {"run_id": run_id, "config_hash": hash_now, "state": "running"})
    return RunFolder(folder, run_id, is_resumed=False)


def run_id_of(folder: Path) -> str:
    """Return the id of the run that ``folder`` belongs to.

    Raises:
        InputError: it belongs to none.
    """
    return str(read_json(folder / _RUN_FILE)["run_id"])


def finished_hash(folder: Path) -> str | None:
    """Return the configuration hash of the finished run in ``folder``, None where there is none."""
    file = folder / _RUN_FILE
    if not file.exists():
        return None
    content = read_json(file)
    return str(content["config_hash"]) if content["state"] == "finished" else None


def _put_aside(folder: Path, run_id: str) -> None:
    place = make_folder(folder / EARLIER_FOLDER / run_id)
    for item in sorted(folder.iterdir()):
        if item.name != EARLIER_FOLDER:
            shutil.move(item, place / item.name)
