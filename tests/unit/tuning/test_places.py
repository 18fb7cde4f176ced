"""How many trials run side by side."""

from __future__ import annotations

import pytest

from vavl.training.settings import TrainingSettings
from vavl.tuning.places import Room, room_on

GB = 2.0**30


@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({"workers": 1}, 12),
        ({"workers": 2}, 6),
        ({"workers": 5}, 2),
        ({"workers": 3, "placement": "strict_pack"}, 2),
        ({"workers": 1, "cpus_per_worker": 3}, 3),
        ({"workers": 1, "gpus_per_worker": 1}, 0),
    ],
)
def test_places_are_counted_for_whole_trials(settings, trials):
    machines = [{"CPU": 8.0, "memory": 16 * GB}, {"CPU": 4.0, "memory": 8 * GB}]
    room = room_on(machines, TrainingSettings(**settings))
    assert room == Room(trials, 24 * GB)


def test_memory_of_the_first_trial_bounds_the_others():
    room = Room(8, 10 * GB)
    assert room.at_once(None, None, 0.8) == 1  # nothing is known yet
    assert room.at_once(None, 2 * GB, 0.8) == 4
    assert room.at_once(None, 0.1 * GB, 0.8) == 8
    assert room.at_once(None, 100 * GB, 0.8) == 1
    assert room.at_once(5, None, 0.8) == 5
    assert room.at_once(50, 2 * GB, 0.8) == 8
