"""How many workers a cluster has place for; needs no Ray."""

from __future__ import annotations

import pytest

from vavl.training.launch import resources_of_worker, workers_that_fit
from vavl.training.settings import TrainingSettings

SMALL = {"CPU": 4.0, "memory": 8 * 2**30}
LARGE = {"CPU": 8.0, "GPU": 4.0, "memory": 64 * 2**30, "accelerator_type:A100": 1.0}


def settings(**changes) -> TrainingSettings:
    return TrainingSettings.model_validate({"workers": [1, 99], **changes})


@pytest.mark.parametrize(
    ("changes", "places"),
    [
        ({}, 4 + 4 + 8),
        ({"cpus_per_worker": 3}, 1 + 1 + 2),
        ({"cpus_per_worker": 0.5}, 8 + 8 + 16),
        ({"gpus_per_worker": 1}, 4),
        ({"gpus_per_worker": 1, "cpus_per_worker": 5}, 1),
        ({"resources_per_worker": {"memory": 5 * 2**30}}, 1 + 1 + 8),
        ({"resources_per_worker": {"accelerator_type:A100": 0.001}}, 8),
        ({"resources_per_worker": {"accelerator_type:H100": 0.001}}, 0),
        ({"resources_per_worker": {"studio": 1}}, 0),
        ({"placement": "strict_pack"}, 8),
        ({"placement": "strict_spread"}, 3),
        ({"placement": "strict_spread", "gpus_per_worker": 1}, 1),
        ({"cpus_per_worker": 9}, 0),
    ],
    ids=str,
)
def test_places_follow_resources_and_placement(changes, places):
    assert workers_that_fit([SMALL, SMALL, LARGE], settings(**changes)) == places
    assert workers_that_fit([], settings(**changes)) == 0


def test_a_worker_asks_for_what_the_settings_say():
    wanted = resources_of_worker(
        settings(cpus_per_worker=2, gpus_per_worker=1, resources_per_worker={"memory": 3e9, "studio": 0.5})
    )
    assert wanted == {"CPU": 2, "GPU": 1, "memory": 3e9, "studio": 0.5}
