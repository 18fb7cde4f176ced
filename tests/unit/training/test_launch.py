"""How many workers a cluster has place for; needs no Ray."""

from __future__ import annotations

import logging

import pytest
from ray.exceptions import RaySystemError

from vavl.errors import TrainingError
from vavl.training import launch
from vavl.training.launch import _Growth, log_capacity, resources_of_worker, wait_for_workers, workers_that_fit
from vavl.training.settings import TrainingSettings
from vavl.training.stop import stop_request

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


@pytest.mark.parametrize(
    ("machines", "seconds"), [([[], [], [LARGE]], 60), ([[]], 0.005)], ids=["they come", "too late"]
)
def test_an_autoscaler_is_asked_for_machines_only_as_long_as_a_run_waits(machines, seconds, monkeypatch):
    def present():
        return machines.pop(0) if len(machines) > 1 else machines[0]

    def ask(*, bundles):
        asked.append(bundles)

    asked = []
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.01)
    monkeypatch.setattr(launch, "ray_machines", present)
    monkeypatch.setattr(launch.ray, "available_resources", lambda: LARGE)
    monkeypatch.setattr(launch.ray.autoscaler.sdk, "request_resources", ask)
    waiting = settings(workers=2, gpus_per_worker=1, faults={"wait_for_workers_seconds": seconds})
    if seconds > 1:
        assert wait_for_workers(waiting, lambda: None) == 2
    else:
        with pytest.raises(TrainingError, match="free resources for 0 of 2 workers after 0 s; machines: none"):
            wait_for_workers(waiting, lambda: None)
    assert asked[0] == [{"CPU": 1, "GPU": 1}] * 2
    assert asked[-1] == []


def test_this_machine_says_what_fits_before_ray_starts(monkeypatch, caplog):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(launch.os, "cpu_count", lambda: 8)
    monkeypatch.setattr(launch.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(launch, "join_ray", lambda threads: pytest.fail("Ray starts"))
    with caplog.at_level(logging.INFO):
        log_capacity(settings(workers=2, cpus_per_worker=3, resources_per_worker={"memory": 1e9}))
        log_capacity(settings(workers=2, cpus_per_worker=1), "trials", 2)
        log_capacity(settings(workers=3, gpus_per_worker=1))
    assert caplog.messages == [
        "capacity: 1 x 8 CPU, 2 GPU; 2 workers fit at once (3 CPU a worker)",
        "capacity: 1 x 8 CPU, 2 GPU; 4 trials fit at once (1 CPU a worker)",
        "capacity: 1 x 8 CPU, 2 GPU; 2 workers fit at once (1 CPU, 1 GPU a worker)",
    ]
    assert [record.levelname for record in caplog.records] == ["INFO", "INFO", "WARNING"]  # 3 are asked for


def test_a_named_cluster_is_asked_and_one_that_does_not_answer_is_named(monkeypatch, caplog):
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:9")
    with caplog.at_level(logging.INFO):
        log_capacity(settings())
    assert "nobody answers at 127.0.0.1:9" in caplog.text
    caplog.clear()
    monkeypatch.setattr(launch, "join_ray", lambda threads: None)
    monkeypatch.setattr(launch, "ray_machines", lambda: [SMALL, SMALL, LARGE])
    monkeypatch.setattr(launch.ray, "available_resources", lambda: {"CPU": 5.0})
    with caplog.at_level(logging.INFO):
        log_capacity(settings(workers=2), "trials", 2)
    (line,) = caplog.messages
    assert line.startswith(
        "capacity of the Ray at 127.0.0.1:9: 2 x 4 CPU, 0 GPU; 1 x 8 CPU, 4 GPU; 8 trials fit at once"
    )
    assert ", 1 of them now (1 CPU a worker)" in line


def test_a_look_for_more_workers_costs_no_run(plan, monkeypatch, caplog):
    """Neither a cluster nor storage that is away for a moment ends it; when they are back the run asks to resume."""
    chosen = plan(training={"launcher": "ray", "workers": [1, 4], "faults": {"grow_after_seconds": 1e-9}})
    monkeypatch.setattr(launch, "_POLL_SECONDS", 0.0)
    monkeypatch.setattr(launch, "ray_machines", lambda: [LARGE])
    answers = [RaySystemError("away"), {"CPU": 0.0}, {"CPU": 2.0}, {"CPU": 2.0}]

    def free():
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(launch.ray, "available_resources", free)
    growth = _Growth(chosen, 1)
    growth.look()
    assert "cannot look for more workers now" in caplog.text
    while answers:
        assert stop_request(chosen.output_dir) is None
        growth.look()
    assert growth.message == "resources for 3 workers instead of 1"
    assert stop_request(chosen.output_dir) == ("resize", growth.message)
    growth.look()  # asked once
