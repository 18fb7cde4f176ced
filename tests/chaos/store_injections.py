"""The faults of what a run reads: features that are cut, changed or spoiled under it or before it starts again.

The run refuses them with file and clip; once the features are put back, the same command goes on.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from damaged_store import set_value
from disturbed import Disturbed
from faults import Fault
from injections import Injection
from scenario import gone_on

from vavl.store.store import FeatureStore

_EVERY = 3


def cut_store(run: Disturbed) -> str:
    """Cut the shards of a modality to a half while the run reads them."""
    with _put_back(run, "video") as paths:
        for path in paths:
            os.truncate(path, path.stat().st_size // 2)
        run.wait_for_exit(run.FAILED)
    return f"{len(paths)} shards of video cut to a half; {_refused(run, 'it was cut while it was in use')}"


def spoil_store(value: float) -> Injection:
    """Return an injection: kill, overwrite a value in every third clip, same command again; the sizes stay."""

    def spoil(run: Disturbed) -> str:
        run.command.kill()
        store, first = _store(run), run.random.randrange(_EVERY)
        clips = FeatureStore.open(store).clip_ids("audio").to_pylist()[first::_EVERY]
        with _put_back(run, "audio"):
            for row in range(first, first + _EVERY * len(clips), _EVERY):
                set_value(store, "audio", row, value)
            run.ensure_started()
            run.wait_for_exit(run.FAILED)
        said = _refused(run, "/audio/data-", ".arrow: clip ", "changed or damaged")
        named = [clip for clip in clips if f"clip {clip}:" in run.command.error_message()]
        if len(named) != 1:
            raise AssertionError(f"no damaged clip is named: {run.command.error_message()}")
        return f"{value:g} in {len(clips)} clips; {named[0]} {said}"

    return spoil


def goes_on_once_put_back(run: Disturbed, fault: Fault, moment: float) -> None:
    """Wait like ``gone_on``, counted from the moment at which the features were as before."""
    gone_on(run, fault, time.time())


@contextlib.contextmanager
def _put_back(run: Disturbed, modality: str) -> Iterator[list[Path]]:
    """Yield the shards of a modality, and give them their content back."""
    whole = {path: path.read_bytes() for path in sorted((_store(run) / modality).glob("*.arrow"))}
    try:
        yield list(whole)
    finally:
        for path, content in whole.items():
            path.write_bytes(content)


def _store(run: Disturbed) -> Path:
    return Path(str(run.command.plan.data.store))


def _refused(run: Disturbed, *words: str) -> str:
    message = run.command.error_message()
    missing = [word for word in words if word not in message]
    if missing:
        raise AssertionError(f"the end does not say {missing}: {message}")
    return "refused by name; put back, same command again"
