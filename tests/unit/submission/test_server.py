"""How a submitted job ends here: its own exit code, its log shown once, a server that goes and comes."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest

from vavl.submission import server as server_module
from vavl.submission.server import JobServer, JobState, SubmissionError, refuse_failure


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [
        ("SUCCEEDED", 0, 0),
        ("FAILED", 1, 1),
        ("FAILED", 2, 2),
        ("FAILED", -9, 137),
        ("FAILED", None, 1),
        ("STOPPED", None, 1),
    ],
)
def test_the_exit_code_is_the_jobs_own(status, driver, code):
    assert JobState("a", status, driver, "").exit_code == code


def test_a_failed_job_fails_here_with_its_code():
    with pytest.raises(SubmissionError, match="job: a: FAILED: exit code 2; its log is above") as ended:
        refuse_failure(JobState("a", "FAILED", 2, "tail of the log"), waited=True)
    assert ended.value.exit_code == 2
    again = pickle.loads(pickle.dumps(ended.value))
    assert (again.exit_code, str(again)) == (2, str(ended.value))


def test_a_job_that_never_started_says_why():
    with pytest.raises(SubmissionError, match="FAILED: the environment cannot be made"):
        refuse_failure(JobState("a", "FAILED", None, "the environment cannot be made"), waited=True)


def test_a_job_that_is_left_alone_is_named_with_the_ways_back():
    with pytest.raises(SubmissionError, match=r"a: is RUNNING(?s:.*)ray job stop a") as left:
        refuse_failure(JobState("a", "RUNNING", None, ""), waited=True)
    assert left.value.exit_code == 1


def test_nothing_is_refused_where_nobody_waits_or_all_is_well():
    refuse_failure(JobState("a", "PENDING", None, ""), waited=False)
    refuse_failure(JobState("a", "SUCCEEDED", 0, ""), waited=True)


@dataclass
class FakeClient:
    """Sends the log from its beginning at each connection, cut off as the test says.

    Attributes:
        connections: pieces of the log that each connection sends; a fault ends a connection.
        states: answers to the question for the status; a fault is raised.
    """

    connections: list[list[Any]]
    states: list[Any]
    asked: list[str] = field(default_factory=list)

    async def tail_job_logs(self, submission_id: str) -> AsyncIterator[str]:
        for piece in self.connections.pop(0):
            if isinstance(piece, BaseException):
                raise piece
            yield piece

    def get_job_info(self, submission_id: str) -> Any:
        self.asked.append(submission_id)
        state = self.states.pop(0)
        if isinstance(state, BaseException):
            raise state
        status, code = state
        return SimpleNamespace(status=SimpleNamespace(value=status), driver_exit_code=code, message=None)


def follow(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> tuple[JobState, str]:
    monkeypatch.setattr(server_module, "JobSubmissionClient", lambda address: client)
    monkeypatch.setattr(server_module, "_PAUSE_S", 0.0)
    shown: list[str] = []
    state = JobServer("http://127.0.0.1:8265").follow("a", shown.append)
    return state, "".join(shown)


def test_the_log_is_shown_and_the_end_awaited(monkeypatch):
    client = FakeClient([["one\n", "two\n"], ["one\ntwo\n"]], [("RUNNING", None), ("SUCCEEDED", 0)])
    state, shown = follow(monkeypatch, client)
    assert shown == "one\ntwo\n"
    assert state == JobState("a", "SUCCEEDED", 0, "")


def test_a_broken_connection_is_made_again_and_nothing_shown_twice(monkeypatch):
    client = FakeClient(
        [["one\ntw", RuntimeError("closed")], [ConnectionError("refused")], ["one", "\ntwo\n", "three\n"]],
        [("FAILED", 2)],
    )
    state, shown = follow(monkeypatch, client)
    assert shown == "one\ntwo\nthree\n"
    assert state.exit_code == 2


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(server_module, "_LONGEST_SILENCE_S", -1.0)
    with pytest.raises(SubmissionError, match=r"no answer for .*; the job may go on"):
        follow(monkeypatch, FakeClient([[ConnectionError("refused")]], []))


def test_interrupting_leaves_the_job_running(monkeypatch):
    state, shown = follow(monkeypatch, FakeClient([["one\n", KeyboardInterrupt()]], [("RUNNING", None)]))
    assert shown == "one\n"
    assert not state.is_over


def test_a_server_that_is_not_there_is_named_with_the_ways_to_start_it():
    with pytest.raises(SubmissionError, match=r"no Ray job server answers(?s:.*)ray start --head"):
        JobServer("http://127.0.0.1:9")
