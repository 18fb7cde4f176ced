"""How a submitted job ends here: its own exit code, its log shown once, a server that goes and comes."""

from __future__ import annotations

import pickle
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from ray.job_submission import JobDetails

from vavl.submission import server
from vavl.submission.server import SubmissionError, connect, refuse_failure

ADDRESS = "http://127.0.0.1:8265"


def ended(status: str, code: int | None, message: str = "") -> JobDetails:
    return JobDetails(
        type="SUBMISSION", submission_id="a", status=status, driver_exit_code=code, message=message, entrypoint="python"
    )


def refusal(details: JobDetails, *, waited: bool = True) -> SubmissionError | None:
    """Return how a job ends here, None where it ends well."""
    try:
        refuse_failure("a", details, waited=waited)
    except SubmissionError as error:
        return error
    return None


@pytest.mark.parametrize(
    ("status", "driver", "code"),
    [("FAILED", 1, 1), ("FAILED", 2, 2), ("FAILED", -9, 137), ("FAILED", None, 1), ("STOPPED", None, 1)],
)
def test_the_exit_code_is_the_jobs_own(status, driver, code):
    assert refusal(ended(status, driver)).exit_code == code


def test_a_failed_job_fails_here_with_its_code():
    error = refusal(ended("FAILED", 2, "tail of the log"))
    assert "job: a: FAILED: exit code 2; its log is above" in str(error)
    again = pickle.loads(pickle.dumps(error))
    assert (again.exit_code, str(again)) == (2, str(error))


def test_a_job_that_never_started_says_why():
    assert "FAILED: the environment cannot be made" in str(
        refusal(ended("FAILED", None, "the environment cannot be made"))
    )


def test_a_job_that_is_left_alone_is_named_with_what_to_do():
    left = refusal(ended("RUNNING", None))
    assert "a: is RUNNING" in str(left)
    assert "ray job stop a" in left.fix
    assert left.exit_code == 1


def test_nothing_is_refused_where_nobody_waits_or_all_is_well():
    assert refusal(ended("PENDING", None), waited=False) is None
    assert refusal(ended("SUCCEEDED", 0)) is None


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
        return ended(*state)


def followed(monkeypatch: pytest.MonkeyPatch, client: FakeClient) -> tuple[JobDetails, str]:
    monkeypatch.setattr(server, "_PAUSE_S", 0.0)
    shown: list[str] = []
    details = server.follow(client, ADDRESS, "a", shown.append)
    return details, "".join(shown)


def test_the_log_is_shown_and_the_end_awaited(monkeypatch):
    client = FakeClient([["one\n", "two\n"], ["one\ntwo\n"]], [("RUNNING", None), ("SUCCEEDED", 0)])
    state, shown = followed(monkeypatch, client)
    assert shown == "one\ntwo\n"
    assert state.status == "SUCCEEDED"


def test_a_broken_connection_is_made_again_and_nothing_shown_twice(monkeypatch):
    client = FakeClient(
        [["one\ntw", RuntimeError("closed")], [ConnectionError("refused")], ["one", "\ntwo\n", "three\n"]],
        [("FAILED", 2)],
    )
    state, shown = followed(monkeypatch, client)
    assert shown == "one\ntwo\nthree\n"
    assert state.driver_exit_code == 2


def test_a_server_that_stays_away_is_given_up(monkeypatch):
    monkeypatch.setattr(server, "_LONGEST_SILENCE_S", -1.0)
    with pytest.raises(SubmissionError, match=r"no answer for .*; the job may continue"):
        followed(monkeypatch, FakeClient([[ConnectionError("refused")]], []))


def test_interrupting_leaves_the_job_running(monkeypatch):
    state, shown = followed(monkeypatch, FakeClient([["one\n", KeyboardInterrupt()]], [("RUNNING", None)]))
    assert shown == "one\n"
    assert not state.status.is_terminal()


def test_a_server_that_is_not_there_is_named_with_how_to_start_it():
    with pytest.raises(SubmissionError, match=r"no Ray job server answers(?s:.*)ray start --head"):
        connect("http://127.0.0.1:9")
