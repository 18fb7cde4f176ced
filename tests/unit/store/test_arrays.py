"""Arrays that processes share: built once, whole or absent, built anew when stale or damaged."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from vavl.errors import InputError, StoreError
from vavl.store import arrays
from vavl.store.arrays import ArrayWriter, file_state, pieces, shared_arrays


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


class Builder:
    """Writes three arrays and counts how often."""

    def __init__(self) -> None:
        self.calls = 0

    def __call__(self, writer: ArrayWriter) -> dict[str, list[str]]:
        self.calls += 1
        for start in (0, 4):
            writer.append("number", np.arange(start, start + 4), rows=8)
            writer.append("share", np.full((4, 2), start, np.float32), rows=8)
        writer.append("none", np.zeros(0, np.int32))
        return {"names": ["a", "b"]}


def files_of(cache: Path, name: str) -> list[Path]:
    return sorted(cache.glob(f"arrays/*/{name}*"))


def test_arrays_come_back_as_they_were_written_and_cannot_be_changed():
    found = shared_arrays(["rows"], [1], Builder())
    assert found["number"].tolist() == list(range(8))
    assert found["share"].tolist() == [[0, 0]] * 4 + [[4, 4]] * 4
    assert (found["share"].dtype, found["none"].dtype, len(found["none"])) == (np.float32, np.int32, 0)
    assert found.facts == {"names": ["a", "b"]}
    with pytest.raises(ValueError, match="read-only"):
        found["number"][0] = 5


def test_they_are_built_once_for_a_state_and_anew_for_another_in_their_place(cache):
    build = Builder()
    before = shared_arrays(["rows"], [1, (2,)], build)
    shared_arrays(["rows"], [1, [2]], build)
    assert build.calls == 1
    shared_arrays(["rows"], [2], build)
    assert (build.calls, len(files_of(cache, "number"))) == (2, 1)
    assert before["number"].tolist() == list(range(8)), "who has them mapped keeps them"
    shared_arrays(["other"], [2], build)
    assert (build.calls, len(files_of(cache, "number"))) == (3, 2)


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "no_facts", "torn_facts", "empty_facts"])
def test_damaged_files_are_built_anew(cache, damage):
    build = Builder()
    shared_arrays(["rows"], [1], build)
    (number,), (facts,) = files_of(cache, "number"), files_of(cache, "arrays.json")
    match damage:
        case "cut":
            os.truncate(number, 150)
        case "changed":
            number.write_bytes(number.read_bytes()[:-1] + b"\7")
            os.utime(number, ns=(1, 1))
        case "gone":
            number.unlink()
        case "no_facts":
            facts.unlink()
        case "torn_facts":
            facts.write_text(facts.read_text()[:-20])
        case _:
            facts.write_text("[]")
    assert shared_arrays(["rows"], [1], build)["number"].tolist() == list(range(8))
    assert build.calls == 2


def test_a_build_that_fails_or_dies_leaves_nothing_that_counts(cache):
    def fail(writer: ArrayWriter) -> None:
        Builder()(writer)
        raise StoreError("store", "", "damaged", "repair it")

    with pytest.raises(StoreError, match="damaged"):
        shared_arrays(["rows"], [1], fail)

    def die() -> None:
        shared_arrays(["rows"], [1], lambda writer: (Builder()(writer), os._exit(9)))

    process = multiprocessing.get_context("fork").Process(target=die)
    process.start()
    process.join()
    assert process.exitcode == 9
    build = Builder()
    shared_arrays(["rows"], [1], build)
    assert build.calls == 1
    assert not list(cache.glob("arrays/.*.partial"))


def test_a_full_disk_is_an_error_that_names_the_cache(monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(ArrayWriter, "append", full)
    with pytest.raises(InputError, match=r"cannot be written: No space left on device\n.*VAVL_CACHE"):
        shared_arrays(["rows"], [1], Builder())


def test_without_a_cache_each_process_has_its_own(tmp_path, monkeypatch, caplog):
    (tmp_path / "file").touch()
    monkeypatch.setenv("VAVL_CACHE", str(tmp_path / "file" / "below"))
    build = Builder()
    with caplog.at_level(logging.WARNING):
        assert shared_arrays(["rows"], [1], build)["number"].tolist() == list(range(8))
    assert "each process builds the arrays" in caplog.text
    shared_arrays(["rows"], [1], build)
    assert build.calls == 2


def test_processes_wait_for_the_one_that_builds(cache):
    def build(writer: ArrayWriter) -> None:
        (cache / f"built_by_{os.getpid()}").touch()
        Builder()(writer)

    context = multiprocessing.get_context("fork")
    several = [context.Process(target=shared_arrays, args=(["rows"], [1], build)) for _ in range(4)]
    for one in several:
        one.start()
    for one in several:
        one.join()
    assert [one.exitcode for one in several] == [0] * 4
    assert len(list(cache.glob("built_by_*"))) == 1


def test_a_file_that_is_cut_while_it_is_mapped_is_an_error(cache):
    found = shared_arrays(["rows"], [1], Builder())
    found.check_uncut()
    os.truncate(files_of(cache, "number")[0], 150)
    with pytest.raises(StoreError, match="a file was cut while it was in use"):
        found.check_uncut()


def test_the_state_of_a_file_follows_its_content(tmp_path):
    file = tmp_path / "file"
    states = [file_state(file)]
    file.write_bytes(b"one")
    states.append(file_state(file))
    os.utime(file, ns=(1, 1))
    states.append(file_state(file))
    file.rename(tmp_path / "old")
    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))
    states.append(file_state(file))
    assert len({str(state) for state in states}) == 4


def test_pieces_are_the_whole():
    rows = np.arange(10)
    assert [piece.tolist() for piece in pieces(rows, 4)] == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
    assert not list(pieces(rows[:0]))
    assert arrays.PIECE > 0
