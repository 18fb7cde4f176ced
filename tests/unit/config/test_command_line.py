"""The command line of a job: exit codes, --help, --dry-run."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import Field

from vavl.config.base import FrozenConfig
from vavl.config.command_line import parse_arguments, print_table, run_job
from vavl.errors import InputError, TrainingError
from vavl.job_config import MakeDemoCorpusJob, PrepareCorpusJob, TrainModelJob


class Section(FrozenConfig):
    hop_ms: float = Field(10.0, gt=0, description="distance of two frames")


class Other(FrozenConfig):
    width: int = 3


class Job(FrozenConfig):
    output_dir: Path = Field(description="where the result goes")
    fold: int = 0
    section: Section = Section()
    choice: Section | Other | None = None


class Play:
    """Counts what a job did."""

    def __init__(self, fault: BaseException | None = None, check_fault: BaseException | None = None) -> None:
        self.told: list[Job] = []
        self.checked: list[Job] = []
        self._fault, self._check_fault = fault, check_fault

    def story(self, job: Job) -> None:
        self.told.append(job)
        if self._fault is not None:
            raise self._fault

    def check(self, job: Job) -> None:
        self.checked.append(job)
        if self._check_fault is not None:
            raise self._check_fault

    def run(self, *words: str) -> int:
        return run_job("Do a thing.", Job, self.story, self.check, list(words))


@pytest.fixture
def file(tmp_path) -> str:
    path = tmp_path / "job.yaml"
    path.write_text("output_dir: runs/here\n")
    return str(path)


def test_success_is_0(file):
    play = Play()
    assert play.run(file, "fold=2") == 0
    assert play.checked == play.told == [Job(output_dir=Path("runs/here"), fold=2)]


@pytest.mark.parametrize(
    ("fault", "code", "text"),
    [
        (InputError("a", "b", "bad clip", "mend it"), 2, "error: a: b: bad clip\n  fix: mend it"),
        (TrainingError("a", "b", "no luck", "again"), 1, "error: a: b: no luck"),
        (KeyError("surprise"), 1, "KeyError: 'surprise'"),
        (KeyboardInterrupt(), 1, "interrupted: start the same command again"),
    ],
)
def test_failures_have_their_exit_code_and_message(file, capsys, fault, code, text):
    assert Play(fault).run(file) == code
    captured = capsys.readouterr()
    assert text in captured.err
    assert captured.out == ""


def test_a_fault_that_the_user_can_mend_shows_no_traceback(file, capsys):
    Play(InputError("a", "b", "bad clip", "mend it")).run(file)
    assert "Traceback" not in capsys.readouterr().err


def test_a_wrong_setting_is_2_and_starts_nothing(file, capsys):
    play = Play()
    assert play.run(file, "fodl=2") == 2
    assert "did you mean `fold`?" in capsys.readouterr().err
    assert not play.checked
    assert not play.told


def test_a_failed_check_starts_nothing(file):
    play = Play(check_fault=InputError("corpus", "", "not there", "get it"))
    assert play.run(file) == 2
    assert len(play.checked) == 1
    assert not play.told


def test_a_dry_run_checks_and_starts_nothing(file, capsys):
    play = Play()
    assert play.run(file, "--dry-run") == 0
    assert len(play.checked) == 1
    assert not play.told
    out = capsys.readouterr().out
    assert "is valid" in out
    assert "nothing was started" in out


def test_a_dry_run_finds_what_the_check_finds(file):
    assert Play(check_fault=InputError("corpus", "", "not there", "get it")).run(file, "--dry-run") == 2


def test_help_lists_every_setting(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_arguments("Do a thing.", Job, ["--help"])
    out = capsys.readouterr().out
    assert "Do a thing." in out
    for line in (
        "  output_dir  # required; path; where the result goes",
        "  fold = 0  # int",
        "  section.hop_ms = 10.0  # float, > 0; distance of two frames",
        "  choice = null  # section | null",
        "  choice.width = 3  # int",
    ):
        assert f"{line}\n" in out


def test_help_of_the_jobs_lists_the_settings_that_others_rely_on(capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_arguments("Train.", TrainModelJob, ["--help"])
    out = capsys.readouterr().out
    for key in (
        "output_dir", "data.fold", "training.seed", "training.workers", "training.zero_stage",
        "training.max_steps", "evaluation.test", "features.speaker_normalisation",
    ):  # fmt: skip
        assert f"\n  {key} " in out
    for settings in (MakeDemoCorpusJob, PrepareCorpusJob):
        with pytest.raises(SystemExit, match="0"):
            parse_arguments("Do.", settings, ["--help"])
        assert "\n  output_dir  # required" in capsys.readouterr().out


def test_help_after_a_configuration_begins_with_what_it_sets(file, capsys):
    with pytest.raises(SystemExit, match="0"):
        parse_arguments("Do a thing.", Job, [str(file), "--help"])
    out = capsys.readouterr().out
    assert out.index(f"set in {file}:") < out.index("all settings")
    assert "\n  output_dir = " in out


def test_a_missing_config_argument_is_2(capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments("Do a thing.", Job, [])
    assert "CONFIG.yaml" in capsys.readouterr().err


def test_a_table_is_printed_as_it_is(capsys):
    print_table("result", [("accuracy", 0.5), ("path", "[bold]/x[/bold]")])
    out = capsys.readouterr().out
    assert "  accuracy  0.5\n" in out
    assert "  path      [bold]/x[/bold]\n" in out
    print_table("nothing", [])
