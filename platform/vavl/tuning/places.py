"""How many trials run side by side: by the places of the cluster, and by the memory that trials were seen to take."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import ray

from vavl.training.cluster import places_on
from vavl.training.settings import TrainingSettings


@dataclass(frozen=True)
class Room:
    """What a cluster has room for.

    Attributes:
        trials: that its CPUs, GPUs and custom resources have place for.
        memory_bytes: that Ray counts, over all machines.
    """

    trials: int
    memory_bytes: float

    def at_once(self, wanted: int | None, trial_bytes: float | None, memory_share: float) -> int:
        """Return how many trials may run side by side; at least one, or the sweep would never end.

        Args:
            wanted: the user's number; it wins over memory, but not over places.
            trial_bytes: most memory that a trial was seen to take, None while nothing is known.
            memory_share: of the memory that trials may take.
        """
        if wanted is not None:
            return max(1, min(wanted, self.trials))
        if trial_bytes is None:
            return 1
        by_memory = math.floor(memory_share * self.memory_bytes / max(trial_bytes, 1.0))
        return max(1, min(self.trials, by_memory))


def room_for(settings: TrainingSettings) -> Room:
    """Ask Ray what its living machines have room for, all of it and not only what is free."""
    return room_on([node["Resources"] for node in ray.nodes() if node["Alive"]], settings)


def room_on(machines: Sequence[Mapping[str, float]], settings: TrainingSettings) -> Room:
    """Count the trials that fit on machines with these resources."""
    trials = places_on(machines, settings) // settings.least_workers
    return Room(trials, sum(machine.get("memory", 0.0) for machine in machines))
