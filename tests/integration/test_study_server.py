"""The study of a sweep on a real PostgreSQL server, whose password stands in the environment alone."""

from __future__ import annotations

from collections.abc import Iterator

import optuna
import pytest
from postgres_server import PostgresServer, reason_to_skip

from vavl.errors import InputError
from vavl.experiments.study import SweepStudy, storage_address
from vavl.experiments.sweep_settings import SweepPlan

pytestmark = pytest.mark.skipif(reason_to_skip() is not None, reason=str(reason_to_skip()))

RATE = "training.optimizer.learning_rate"


@pytest.fixture(scope="module")
def postgres() -> Iterator[PostgresServer]:
    server = PostgresServer()
    try:
        server.start()
        server.create_database("optuna")
        yield server
    finally:
        server.stop()


@pytest.fixture
def plan(postgres: PostgresServer, monkeypatch: pytest.MonkeyPatch) -> SweepPlan:
    monkeypatch.setenv("PGPASSWORD", postgres.password)
    return SweepPlan.model_validate({
        "output_dir": "unused", "training": "unused.yaml",
        "search": {RATE: {"low": 1e-4, "high": 1e-1, "log": True}, "model.x": {"choices": [None, [64, 32]]}},
        "storage": f"postgresql://{postgres.user}@127.0.0.1:{postgres.port}/optuna",
    })  # fmt: skip


def test_a_study_on_a_server_outlives_its_driver(plan: SweepPlan) -> None:
    first = SweepStudy(plan, "the sweep")
    first.try_first([{RATE: 1e-3, "model.x": [64, 32]}])
    drawn = [first.draw() for _ in range(3)]
    assert drawn[0].point == {RATE: 1e-3, "model.x": [64, 32]}
    first.note_epoch(0, 1, 0.25)
    first.tell(0, "finished", [0.5])
    first.tell(1, "pruned", None)
    again = SweepStudy(plan, "the sweep")
    assert again.ended() == {0: "finished", 1: "pruned"}
    assert again.interrupted() == drawn[2:]
    # As the dashboard reads it.
    study = optuna.load_study(study_name="the sweep", storage=storage_address(plan))
    assert study.best_params[RATE] == 1e-3
    assert study.trials[0].intermediate_values == {1: 0.25}


def test_a_wrong_password_is_one_message_without_it(plan: SweepPlan, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", "not-this-one")
    with pytest.raises(InputError, match=r"cannot be opened: .*password authentication failed") as told:
        SweepStudy(plan, "the sweep")
    assert "not-this-one" not in str(told.value)
