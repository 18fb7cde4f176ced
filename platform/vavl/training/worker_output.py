"""What the workers of a run leave: models and predictions, on this machine and in the run's storage."""

from __future__ import annotations

import tempfile
from pathlib import Path

from vavl.training.storage import RunStorage


class WorkerOutput:
    """The results of a run as a worker writes and reads them.

    Args:
        output_dir: of the run. Files go into a directory as they are; for an address they are written to this
            machine's temporary files first.
    """

    def __init__(self, output_dir: Path | str) -> None:
        self.storage = RunStorage(output_dir)
        self._scratch: tempfile.TemporaryDirectory[str] | None = None
        here = self.storage.local_path("")
        if here is None:
            self._scratch = tempfile.TemporaryDirectory(prefix="vavl-run-")
            here = Path(self._scratch.name)
        self.folder: Path = here
        """Directory of this machine: the run's own, or temporary files."""

    def publish(self, name: str) -> None:
        """Put a file or directory of ``folder`` into the run's storage; nothing is left to do for a directory."""
        if self._scratch is not None:
            self.storage.put_copy(self.folder / name, name)

    def fetch(self, name: str) -> Path:
        """Return a directory of this machine with what ``name`` holds in the run's storage."""
        if self._scratch is not None:
            self.storage.fetch_tree(name, self.folder / name)
        return self.folder / name
