"""Ray's cluster as a run sees it: how many workers it has place for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence

import ray
import ray.autoscaler.sdk
from ray.core.generated import gcs_pb2
from ray.util.placement_group import PlacementGroup, remove_placement_group

from vavl.training.settings import TrainingSettings


def resources_of_worker(settings: TrainingSettings) -> dict[str, float]:
    """Return what one worker asks of Ray, by Ray's names; memory in bytes."""
    wanted = {"CPU": settings.cpus_per_worker, **settings.resources_per_worker}
    if settings.gpus_per_worker:
        wanted["GPU"] = settings.gpus_per_worker
    if settings.memory_per_worker_gb is not None:
        wanted["memory"] = settings.memory_per_worker_gb * 2**30
    return wanted


def places_for_workers(settings: TrainingSettings) -> int:
    """Count the workers that the living machines of the cluster have place for, up to the most.

    All resources count, not only free ones; machines that are about to be taken away do not.
    """
    # Ray has no public list of draining machines; Ray Train's own watcher asks here.
    draining = ray._private.state.state.get_draining_nodes()
    machines = [node["Resources"] for node in ray.nodes() if node["Alive"] and node["NodeID"] not in draining]
    return min(settings.most_workers, places_on(machines, settings))


def places_on(machines: Sequence[Mapping[str, float]], settings: TrainingSettings) -> int:
    """Count the workers that fit on machines with these resources, as the placement demands."""
    wanted = resources_of_worker(settings)
    if settings.accelerator_type is not None:
        # A machine with an accelerator carries this resource; 0.001 of it is what Ray asks for.
        wanted[f"accelerator_type:{settings.accelerator_type}"] = 0.001
    fitting = [
        min(math.floor(machine.get(name, 0) / amount + 1e-9) for name, amount in wanted.items())
        for machine in machines
    ]
    match settings.placement:
        case "strict_pack":
            return max(fitting, default=0)
        case "strict_spread":
            return sum(places > 0 for places in fitting)
        case "pack" | "spread":
            return sum(fitting)


def free_places_of_the_dead() -> int:
    """Give back the places on the cluster that this driver's dead actors still hold; return how many groups.

    The places of workers outlive a killed controller of Ray Train. Its own cleaner asks the dashboard
    whether the controller lives, so without one the places were taken until the driver ends.
    """
    freed = 0
    own_job = ray.get_runtime_context().get_job_id()
    # The public table does not say who made a group.
    accessor = ray._private.state.state._connect_and_get_accessor()
    for entry in accessor.get_placement_group_table():
        group = gcs_pb2.PlacementGroupTableData.FromString(entry)
        is_removed = group.state == gcs_pb2.PlacementGroupTableData.REMOVED
        # A group that no actor made counts as one of a dead actor: those of Ray Tune are of that kind.
        is_of_actor = group.creator_actor_id != ray.ActorID.nil().binary()
        is_lost = is_of_actor and group.creator_actor_dead and not is_removed
        if is_lost and group.creator_job_id.hex() == own_job:
            remove_placement_group(PlacementGroup(ray.PlacementGroupID(group.placement_group_id)))
            freed += 1
    return freed


def ask_for_workers(settings: TrainingSettings, workers: int) -> None:
    """Tell an autoscaler to make place for so many workers; 0 gives the place back.

    A cluster without an autoscaler takes no notice.
    """
    bundle = {
        name: amount for name, amount in resources_of_worker(settings).items() if name in ("CPU", "GPU")
    }
    ray.autoscaler.sdk.request_resources(
        bundles=[{name: math.ceil(n) for name, n in bundle.items()}] * workers
    )


def describe_machines() -> str:
    """Describe the living machines in a few words, for messages."""
    counted = Counter(
        f"{node['Resources'].get('CPU', 0):g} CPU, {node['Resources'].get('GPU', 0):g} GPU"
        for node in ray.nodes()
        if node["Alive"]
    )
    return "; ".join(f"{count} x {what}" for what, count in counted.items()) or "none"
