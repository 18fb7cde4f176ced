"""What a killed controller of Ray Train leaves behind is given back."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator

import pytest
import ray
from ray.exceptions import RayActorError
from ray.util.placement_group import placement_group

from vavl.training.cluster import free_places_of_the_dead

pytestmark = [pytest.mark.ray]

WAIT_S = 60


@pytest.fixture
def local_ray() -> Iterator[None]:
    """Start Ray with two places and without its dashboard, as a run on one machine does."""
    ray.shutdown()
    ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield
    ray.shutdown()


@ray.remote(num_cpus=0)
class Holder:
    """Takes every place, as Ray Train's controller does for its workers."""

    def take(self) -> int:
        self.group = placement_group([{"CPU": 1}] * 2)
        ray.get(self.group.ready())
        return os.getpid()


def test_places_of_a_killed_holder_are_freed_and_no_others(local_ray: None) -> None:
    # A group of the driver has no actor that could be dead; Ray Tune makes such ones.
    ray.get(placement_group([{"memory": 2**20}]).ready())
    holder = Holder.remote()
    process = ray.get(holder.take.remote())
    assert free_places_of_the_dead() == 0  # it lives
    os.kill(process, signal.SIGKILL)
    with pytest.raises(RayActorError, match="died"):
        ray.get(holder.take.remote())
    assert ray.available_resources().get("CPU", 0) == 0
    assert free_places_of_the_dead() == 1
    until = time.monotonic() + WAIT_S
    while ray.available_resources().get("CPU", 0) < 2 and time.monotonic() < until:
        time.sleep(0.1)
    assert ray.available_resources()["CPU"] == 2
    assert free_places_of_the_dead() == 0
