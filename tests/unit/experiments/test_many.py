"""Many trainings: a run that fails or is interrupted disturbs no other and goes on at the next start."""

from __future__ import annotations

import ray

from vavl.config.files import read_json, write_json
from vavl.errors import TrainingError
from vavl.experiments.many import is_finished, read_summary, train_many, train_one


class Log:
    """Notes what a run says; fails at an epoch if it is told to."""

    def __init__(self, fail_at=None):
        self.notes, self.fail_at = [], fail_at

    def start(self, plan, folder):
        self.notes.append(f"start {'again' if folder.is_resumed else 'new'}")

    def __call__(self, records):
        for record in records:
            if record["kind"] == "epoch":
                self.notes.append(f"epoch {record['epoch']}")
                if record["epoch"] == self.fail_at:
                    raise TrainingError("step", "loss", "is not finite", "lower the rate")

    def end(self, status, metrics):
        self.notes.append(status)


def test_a_run_that_stopped_half_way_goes_on_from_its_checkpoint(plan):
    whole = train_one("whole", plan("whole"), Log())
    assert whole.state == "finished"
    chosen, first, second = plan("halved"), Log(fail_at=2), Log()
    failed = train_one("halved", chosen, first)
    assert (failed.state, failed.metrics) == ("failed", {})
    assert "is not finite" in failed.reason
    assert first.notes == ["start new", "epoch 1", "epoch 2", "FAILED"]
    assert not is_finished(chosen)

    done = train_one("halved", chosen, second)
    assert second.notes == ["start again", "epoch 2", "epoch 3", "FINISHED"]
    assert done.metrics == whole.metrics
    assert is_finished(chosen)
    assert not (chosen.output_dir / "checkpoints").exists()
    assert read_summary(chosen.output_dir)["seconds"] > 0


def test_finished_means_the_same_settings_on_the_same_features(plan, small_store, small_corpus):
    chosen = plan(training={"max_epochs": 1})
    assert not is_finished(chosen)
    train_one("run", chosen, Log())
    assert is_finished(chosen)
    assert not is_finished(plan(training={"max_epochs": 2}))
    other = chosen.data.model_copy(update={"store": small_store(small_corpus(seed=5))})
    assert not is_finished(chosen.model_copy(update={"data": other}))
    state = read_json(chosen.output_dir / "run.json")
    write_json(chosen.output_dir / "run.json", {**state, "state": "running"})
    assert not is_finished(chosen)


def test_an_unknown_fault_is_the_end_of_one_run_only(plan):
    class Broken(Log):
        def start(self, plan, folder):
            raise RuntimeError("no luck")

        def end(self, status, metrics):
            raise OSError("disk full")

    end = train_one("run", plan(), Broken())
    assert (end.state, end.reason) == ("failed", "RuntimeError: no luck")


def test_without_anything_to_train_ray_is_not_started(plan):
    chosen = plan(training={"max_epochs": 1})
    train_one("run", chosen, Log())
    was_there = ray.is_initialized()
    assert [end.state for end in train_many({"run": chosen}, lambda name: Log())] == ["kept"]
    assert ray.is_initialized() == was_there
