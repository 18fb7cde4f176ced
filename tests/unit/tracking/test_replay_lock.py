"""The living run keeps its journal, and those below its folder, for as long as it lives."""

from __future__ import annotations

import multiprocessing
import time
from pathlib import Path

from vavl.tracking.replay_lock import Follower, is_followed, only_one


def test_a_followed_journal_and_those_below_it_are_left_alone(tmp_path: Path) -> None:
    own = tmp_path / "comparison" / "journal.jsonl"
    child, other = own.parent / "runs" / "one" / own.name, tmp_path / "other" / own.name
    follower = Follower(own)
    assert not is_followed(own)
    assert follower.take()
    assert is_followed(own)
    assert is_followed(child)
    assert not is_followed(other)
    assert not Follower(own).take()
    follower.release()
    follower.release()
    assert not is_followed(child)
    assert Follower(own).take()


def _follow_for_ever(journal: Path) -> None:
    Follower(journal).take()
    time.sleep(600)


def test_a_killed_run_leaves_its_journal(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    process = multiprocessing.get_context("fork").Process(target=_follow_for_ever, args=(journal,))
    process.start()
    deadline = time.monotonic() + 30
    while not is_followed(journal):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.kill()
    process.join()
    assert not is_followed(journal)


def test_only_one_replays_at_a_time(tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    with only_one(journal) as first, only_one(journal) as second:
        assert (first, second) == (True, False)
    with only_one(journal) as again:
        assert again
