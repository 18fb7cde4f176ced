"""The directory of a run as its driver sees it: who it belongs to, and what happens to an earlier run in it."""

from __future__ import annotations

import datetime as dt
import logging
import secrets
import shutil
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from vavl.config.files import make_folder, read_json, write_json
from vavl.config.snapshot import save_config
from vavl.store.store_versions import LATEST, pinned_store, split_version
from vavl.training.settings import TrainingPlan
from vavl.training.storage import RunStorage
from vavl.training.working_copy import EARLIER_FOLDER, RUN_FILE, WorkingCopy, read_record

Plan = TypeVar("Plan", bound=TrainingPlan)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RunFolder:
    """An output directory that belongs to one run.

    Attributes:
        path: the directory on this machine; for an address a working copy, without checkpoints.
        run_id: of the run, e.g. ``20260301-142233-9f3a``.
        is_resumed: True when an unfinished run of the same configuration is resumed.
        copy: of what is at an address; None for a directory.
    """

    path: Path
    run_id: str
    is_resumed: bool
    copy: WorkingCopy | None = None

    def publishing(self) -> AbstractContextManager[None]:
        """Publish what changes in ``path`` while the context lasts, and at its end; nothing is to do for a directory.

        Raises:
            InputError: at its end the address cannot be written.
        """
        return self.copy.publishing() if self.copy is not None else nullcontext()

    def collect(self) -> None:
        """Bring the results of the workers into ``path``.

        Raises:
            InputError, StoreError: the address cannot be read.
        """
        if self.copy is not None:
            self.copy.collect()

    def finish(self) -> None:
        """Mark the run as finished: the next start in this directory is a new run.

        Raises:
            InputError: the address cannot be written.
        """
        write_json(self.path / RUN_FILE, {**read_json(self.path / RUN_FILE), "state": "finished"})
        if self.copy is not None:
            self.copy.publish()


def with_pinned_store(plan: Plan) -> Plan:
    """Return the plan with the version of its store in full, looked up once for the whole run.

    A run that goes on keeps the version that it began with, whatever is ``latest`` by now.

    Raises:
        StoreError, InputError: see ``vavl.store.store_versions.pinned_store``.
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
    """Resume the unfinished run of the directory or address, or make way for a new one.

    With ``training.resume: auto`` an unfinished run of the same configuration is resumed. Anything
    else that is there is moved to ``earlier/<run id>``; nothing is deleted but, at an address, checkpoints.

    Raises:
        InputError: the directory or the address cannot be written.
    """
    copy = WorkingCopy(plan.output_dir) if isinstance(plan.output_dir, str) else None
    if copy is not None:
        copy.refresh()
    folder = copy.path if copy is not None else make_folder(Path(plan.output_dir))
    earlier = read_record(RunStorage(folder))
    if earlier is not None:
        if _goes_on(earlier, plan):
            _log.info("resuming run %s in %s", earlier["run_id"], plan.output_dir)
            return RunFolder(folder, earlier["run_id"], is_resumed=True, copy=copy)
        if copy is not None:
            copy.put_aside(earlier["run_id"])
        put_aside(folder, earlier["run_id"])
        reason = (
            "is finished"
            if earlier["state"] == "finished"
            else "is not resumed (resume=never or other settings)"
        )
        kept = f"{plan.output_dir}/{EARLIER_FOLDER}/{earlier['run_id']}"
        _log.info("run %s %s; it is kept in %s", earlier["run_id"], reason, kept)
    now = dt.datetime.now(dt.UTC).strftime("%Y%m%d-%H%M%S")
    run_id = f"{now}-{secrets.token_hex(2)}"
    save_config(plan, folder / "config.yaml")
    content = {
        "run_id": run_id,
        "config_hash": plan.config_hash,
        "state": "running",
        "store": str(plan.data.store),
    }
    write_json(folder / RUN_FILE, content)
    if copy is not None:
        copy.publish()
    return RunFolder(folder, run_id, is_resumed=False, copy=copy)


def run_id_at(output_dir: Path | str) -> str | None:
    """Return the id of the run that a directory or an address belongs to, None where there is none."""
    record = read_record(RunStorage(output_dir))
    return None if record is None else str(record["run_id"])


def finished_hash(folder: Path) -> str | None:
    """Return the configuration hash of the finished run in ``folder``, None where there is none."""
    file = folder / RUN_FILE
    if not file.exists():
        return None
    content = read_json(file)
    return str(content["config_hash"]) if content["state"] == "finished" else None


def _earlier(plan: TrainingPlan) -> dict[str, Any] | None:
    """Return what the run says that the directory or address belongs to; None where there is none."""
    return read_record(RunStorage(plan.output_dir))


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
