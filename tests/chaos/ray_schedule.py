"""Which faults hit the runs on Ray."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import ray_injections
from faults import BITWISE, OTHER_WORKERS
from plans import plan_of
from ray_nodes import RayNodes
from ray_run import RayRun
from scenario import Planned, Scenario
from schedule import DRIVER, FROZEN, FROZEN_AFTER_SECONDS, SIGTERM, STOP_FILE, WORKER, Maker, Runs
from selection import PlannedRun

from vavl.training.settings import TrainingPlan

# Workers report once a second: quick steps would be done and lost without anybody having heard of them.
STEPS_PER_FAULT, CHECKPOINT_EVERY = 26, 12

CONTROLLER = Planned("controller killed", ray_injections.kill_controller)
NODE = Planned("node killed", ray_injections.kill_node)
NODE_LOST = Planned("node lost for good", ray_injections.lose_node)
NODE_JOINS = Planned("node joins", ray_injections.add_node)
PREEMPTED = Planned("preemption notice", ray_injections.preempt_node)


def ray_scenarios(runs: Runs, cluster: RayNodes) -> list[PlannedRun]:
    """Return the runs on the cluster, which has two nodes with two places each."""

    def make(name: str, faults: Sequence[Planned], allowed: float = BITWISE, **training: Any) -> Scenario:
        steps = STEPS_PER_FAULT * (len(faults) + 1)
        limits = {"faults": {"step_timeout_seconds": FROZEN_AFTER_SECONDS}}
        plan = plan_of(
            runs.folder / name,
            runs.store,
            steps,
            launcher="ray",
            checkpoint_every_steps=CHECKPOINT_EVERY,
            **limits,
            **training,
        )
        return Scenario(name, command, plan, runs.undisturbed, faults, allowed)

    def command(plan: TrainingPlan) -> RayRun:
        return RayRun(plan, cluster, runs.folder)

    # Micro-batches make steps slow enough to be hit; weights that are sharded, which travel for each, do so without.
    def two(stage: int, placement: str, clips: int | None) -> Maker:
        how = {"zero_stage": stage, "placement": placement, "clips_per_forward": clips}
        return lambda name, faults: make(name, faults, workers=2, **how)

    def elastic(name: str, faults: Sequence[Planned]) -> Scenario:
        return make(name, faults, OTHER_WORKERS, workers=(2, 4), zero_stage=1, clips_per_forward=2)

    table: list[tuple[str, list[Planned], Maker]] = [
        ("ray-spread", [WORKER, CONTROLLER, NODE, DRIVER, PREEMPTED, FROZEN, STOP_FILE],
         two(1, "strict_spread", 2)),
        ("ray-pack", [NODE, SIGTERM, CONTROLLER, FROZEN], two(3, "pack", None)),
        ("ray-elastic", [NODE_LOST, WORKER, NODE_JOINS, CONTROLLER], elastic),
    ]  # fmt: skip
    return [PlannedRun(*row) for row in table]
