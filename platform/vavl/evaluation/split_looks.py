"""How often the test split of a store was measured, as far as a tracking store knows."""

from __future__ import annotations

import logging
import os
from typing import Any

from vavl.evaluation.measure import MeasuredClips
from vavl.evaluation.selection import EVERY_SPLIT
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.reachable import unreachable_reason
from vavl.tracking.settings import TrackingSettings, tracking_place

SPLIT_TAG = "vavl.evaluated_split"
_WITH_TEST = ("test", EVERY_SPLIT)
_MOST_EXPERIMENTS = 1000
_PAGE = 1000
_log = logging.getLogger(__name__)


def looks_before(clips: MeasuredClips, settings: TrackingSettings) -> str:
    """Say how many finished runs measured test clips of a store before; "" where no test clip is measured.

    Never fails: a tracking store that does not answer is what is said then.

    Args:
        clips: to be measured.
        settings: of the tracking store that is asked.
    """
    if clips.selection.split not in _WITH_TEST:
        return ""
    store_hash = clips.collection.store.hash
    place = tracking_place(settings, os.environ)
    try:
        reason = unreachable_reason(place, settings.request_timeout_seconds)
        if reason is not None or (place.database is not None and not place.database.exists()):
            raise ConnectionError(reason or f"{place.database} does not exist")
        client = open_client(settings, place)
        of_store = f"tags.`vavl.store_hash` = '{store_hash}' and attributes.status = 'FINISHED'"
        trainings = _count(client, f"{of_store} and params.`evaluation.test` = 'true'")
        evaluations = sum(
            _count(client, f"{of_store} and tags.`{SPLIT_TAG}` = '{split}'") for split in _WITH_TEST
        )
    except Exception as fault:  # noqa: BLE001  a statement of the report, no reason to stop
        _log.warning("how often the test split was measured before is not known: %s", fault)
        return "how often the test split of this store was measured before is not known: the tracking store did not say"
    return (
        f"the tracking store knows {trainings} finished trainings and {evaluations} finished evaluations that measured "
        "test clips of this store before this one; each further look makes a choice by its result more optimistic"
    )


def _count(client: Any, filter_string: str) -> int:
    experiments = [found.experiment_id for found in client.search_experiments(max_results=_MOST_EXPERIMENTS)]
    count, token = 0, None
    while True:
        page = client.search_runs(experiments, filter_string, max_results=_PAGE, page_token=token)
        count, token = count + len(page), page.token
        if not token:
            return count
