"""Workers of Ray: clips that end or block their process are set aside, all others are done."""

from __future__ import annotations

from pathlib import Path

import pytest
from deadly_work import deadly_source, part_of

from vavl.errors import ConfigError, InputError, TrainingError
from vavl.extraction.parts import PartExtractor, PartResult
from vavl.extraction.settings import ExtractionRun
from vavl.workers.attempts import TimeLimit
from vavl.workers.ray_pool import number_of_workers, work_on_ray

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("two_ray_workers")]

TWO = ExtractionRun(workers=2, seconds_per_clip=3)


def results(folder: Path, names: list[list[str]], **source: bool) -> dict[int, PartResult]:
    parts = [part_of(folder, number, ids) for number, ids in enumerate(names)]
    work = PartExtractor({"audio": deadly_source(**source)}, TimeLimit(3, ends_process=True))
    return {int(result.name.split("-")[1]): result for result in work_on_ray(parts, work, [folder], TWO, "extraction")}


def test_clips_that_end_or_block_their_process_are_set_aside_and_all_others_are_done(tmp_path):
    names = [["a", "b"], ["c", "d_deadly", "e", "f_hanging", "g"], ["h_damaged"], ["i"], ["j"]]
    done = results(tmp_path, names)
    assert sorted(done) == list(range(5))
    reasons = {entry.clip_id: entry.reason for number in done for entry in done[number].quarantined}
    assert sorted(reasons) == ["d_deadly", "f_hanging", "h_damaged"]
    assert "crash or out of memory" in reasons["d_deadly"]
    assert reasons["f_hanging"] == "takes longer than seconds_per_clip allows: 3 s"
    assert sum(result.tally.get("seen", 0) for result in done.values()) == 7
    # What killed processes had half written is removed with the rest, when the store is finished.
    assert sorted(path.name for path in tmp_path.glob("[!.]*")) == [
        f"audio-{number:05d}-abc.parquet" for number in range(5)
    ]


def test_a_fault_of_the_settings_ends_the_job_with_its_message(tmp_path):
    with pytest.raises(ConfigError, match="do not fit"):
        results(tmp_path, [["a"], ["b_misconfigured"], ["c"]])


def test_workers_that_end_before_any_clip_end_the_job(tmp_path):
    with pytest.raises(TrainingError, match="ends before it has read a clip"):
        results(tmp_path, [["a"]], dies_at_once=True)


def test_a_directory_that_the_machine_does_not_see_is_named(tmp_path):
    with pytest.raises(InputError, match=r"(?s)missing: the machine .* does not see this directory.*shares"):
        list(work_on_ray([1], abs, [tmp_path / "missing"], TWO, "extraction"))


def test_workers_are_as_many_as_there_is_place_for():
    assert number_of_workers(ExtractionRun(), parts=9) == 2
    assert number_of_workers(ExtractionRun(), parts=1) == 1
    assert number_of_workers(ExtractionRun(workers=5), parts=9) == 2
    assert number_of_workers(ExtractionRun(workers=5, cpus_per_worker=2), parts=9) == 1
    with pytest.raises(ConfigError, match="no capacity for a worker with 1 CPU, 1 GPU"):
        number_of_workers(ExtractionRun(gpus_per_worker=1), parts=9)
    with pytest.raises(ConfigError, match="no capacity for a worker with 1 CPU, 100000 GB"):
        number_of_workers(ExtractionRun(memory_per_worker_gb=100_000), parts=9)
