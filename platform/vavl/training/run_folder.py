"""The folder of a run: who it belongs to, and what happens to an earlier run in it."""

from __future__ import annotations

import datetime as dt
import json
import logging
import secrets
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vavl.config.files import make_folder, read_json, write_json
from vavl.config.snapshot import save_config
from vavl.data.store_versions import LATEST, pinned_store, split_version
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage

Plan = TypeVar("Plan", bound=TrainingPlan)

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


def with_pinned_store(plan: Plan) -> Plan:
    """Return the plan with the version of its store in full, looked up once for the whole run.

    A run that goes on keeps the version that it began with, whatever is ``latest`` by now.

    Raises:
        StoreError, InputError: see ``vavl.data.store_versions.pinned_store``.
    """
    store = begun_store(plan) if _goes_on(_earlier(plan), plan) else None
    return with_store(plan, pinned_store(plan.data.store) if store is None else store)


def with_store(plan: Plan, store: Path | str) -> Plan:
    """Return the plan with another store."""
    return plan.model_copy(update={"data": plan.data.model_copy(update={"store": store})})


def begun_store(plan: TrainingPlan) -> Path | str | None:
    """Return the version of the ``latest`` store that the run in the plan's folder began with, if any.

    None where the plan asks for another store, or names a version itself.
    """
    asked, begun = plan.data.store, (_earlier(plan) or {}).get("store")
    base, version = split_version(asked)
    if version != LATEST or begun is None or split_version(str(begun))[0] != str(base):
        return None
    return type(asked)(begun)


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
    earlier = _earlier(plan)
    if earlier is not None:
        if _goes_on(earlier, plan):
            _log.info("continuing run %s in %s", earlier["run_id"], folder)
            return RunFolder(folder, earlier["run_id"], is_resumed=True)
        put_aside(folder, earlier["run_id"])
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
    content = {"run_id": run_id, "config_hash": hash_now, "state": "running", "store": str(plan.data.store)}
    write_json(file, content)
    return RunFolder(folder, run_id, is_resumed=False)


def run_id_of(folder: Path) -> str:
    """Return the id of the run that ``folder`` belongs to.

    Raises:
        InputError: it belongs to none.
    """
    return str(read_json(folder / _RUN_FILE)["run_id"])


def run_id_at(output_dir: Path | str) -> str | None:
    """Return the id of the run that a directory or an address belongs to, None where there is none."""
    content = RunStorage(output_dir).read(_RUN_FILE)
    return None if content is None else str(json.loads(content)["run_id"])


def finished_hash(folder: Path) -> str | None:
    """Return the configuration hash of the finished run in ``folder``, None where there is none."""
    file = folder / _RUN_FILE
    if not file.exists():
        return None
    content = read_json(file)
    return str(content["config_hash"]) if content["state"] == "finished" else None


def _earlier(plan: TrainingPlan) -> dict[str, Any] | None:
    """Return what the run says that the folder belongs to; None where there is none."""
    file = plan.output_dir / _RUN_FILE
    return dict(read_json(file)) if file.exists() else None


def _goes_on(earlier: Mapping[str, Any] | None, plan: TrainingPlan) -> bool:
    """Tell whether the run that the folder holds is this one, unfinished and to be continued."""
    if earlier is None or earlier["config_hash"] != plan.config_hash:
        return False
    return bool(earlier["state"] == "running" and plan.training.resume == "auto")


def put_aside(folder: Path, run_id: str) -> None:
    """Move what ``folder`` holds of a run to ``earlier/<run id>`` in it."""
    place = make_folder(folder / EARLIER_FOLDER / run_id)
    for item in sorted(folder.iterdir()):
        if item.name != EARLIER_FOLDER:
            shutil.move(item, place / item.name)
