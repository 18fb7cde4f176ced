"""The README and the pages it leads to: what they show is what tests run, and every link leads somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from own_process import run_program
from rendered_media import moving_square, tone, write_mp4, write_wav
from served_models import served, write_media_model
from tiny_plans import own_tracking

from vavl.job_config import JOB_SETTINGS
from vavl.submission.submission import SubmitJob
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.settings import TrackingSettings, tracking_place

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "tests/examples"
EXAMPLE_PAGES = {
    "agreement_loss.py": "objectives",
    "backbone.yaml": "extractors",
    "deepspeed_option.yaml": "training",
    "loudness_extractor.py": "extractors",
}
"""Examples that the page of a package shows; README.md shows the others."""
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = sorted(
    {
        *ROOT.glob("*.md"),
        *(page for top in ("platform", "jobs", "datasets", "tests") for page in (ROOT / top).rglob("*.md")),
    }
)


def test_the_readme_is_short():
    lines = README.splitlines()
    assert len(lines) <= 150
    assert [line for line in lines if len(line) > 120 and not line.startswith("|")] == []


def test_the_pages_show_the_examples_as_they_are():
    examples = {path.name: path.read_text(encoding="utf-8") for path in EXAMPLES.iterdir() if path.is_file()}
    assert len(examples) >= 7
    assert examples.keys() >= EXAMPLE_PAGES.keys()
    for name, text in examples.items():
        package = EXAMPLE_PAGES.get(name)
        page = ROOT / ("README.md" if package is None else f"platform/vavl/{package}/README.md")
        shown = re.findall(r"```(?:bash|text|python|yaml)\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL)
        assert text in shown, f"{page.relative_to(ROOT)} does not show tests/examples/{name} as it is"
        assert package is None or len(text.splitlines()) <= 40


def test_contributing_shows_where_to_add_seven_things():
    page = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    part = page.partition("## Where to add what")[2].partition("\n## ")[0]
    walks = [walk for walk in part.split("\n\n") if walk.startswith("**")]
    assert [walk.partition("**")[2].partition(".**")[0] for walk in walks] == [
        "A loss", "An extractor", "A corpus", "A metric", "A Tune sampler", "A DeepSpeed setting", "A fault to inject",
    ]  # fmt: skip
    assert all("](" in walk for walk in walks)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page: Path):
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if re.match(r"[a-z]+:", target):
            continue
        place, _, heading = target.partition("#")
        there = (page.parent / place).resolve() if place else page
        assert there.exists(), f"{page.relative_to(ROOT)}: {target}"
        if heading:
            assert heading in headings_of(there), f"{page.relative_to(ROOT)}: {target}"


def headings_of(page: Path) -> set[str]:
    """Return the anchors of a page, made as GitHub makes them."""
    titles = re.findall(r"(?m)^#+ (.+)$", page.read_text(encoding="utf-8"))
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.mark.parametrize("script", sorted(EXAMPLES.glob("*.sh")), ids=lambda path: path.name)
def test_every_command_shown_names_a_job_a_configuration_and_settings_that_exist(script: Path):
    commands = [shlex.split(line) for line in script.read_text(encoding="utf-8").splitlines()]
    jobs = [words[1:] for words in commands if words[0].endswith("python")]
    assert jobs
    for job, config, *overrides in jobs:
        settings = JOB_SETTINGS[Path(job).stem]
        if config.endswith(".yaml"):
            SubmitJob.model_validate({"output_dir": "out", "job": job, "config": config, "overrides": overrides})
            assert (ROOT / config).is_file()
        else:
            assert settings.directory_key is not None
        for override in overrides:
            assert override.partition("=")[0].partition(".")[0] in settings.model_fields


def test_the_champion_predicts_as_the_readme_shows(tmp_path: Path, tracking_database: Path):
    """The file is run as it stands, in a directory that looks like the project's after ``make demo``."""
    script = EXAMPLES / "predict_with_champion.py"
    audio, video = (tmp_path / path for path in re.findall(r'"(runs/demo_corpus/[^"]+)"', script.read_text()))
    for path in (audio, video):
        path.parent.mkdir(parents=True)
    write_wav(audio, 0.5 * tone(300, 0.3))
    write_mp4(video, moving_square(6, side=64))
    served(write_media_model(tmp_path / "best"), tmp_path / "served")
    settings = TrackingSettings.model_validate(own_tracking(tmp_path / "runs", tracking_database))
    client = open_client(settings, tracking_place(settings, {}))
    client.create_registered_model("vavl-demo")
    client.create_model_version("vavl-demo", source=(tmp_path / "served").as_uri())
    client.set_registered_model_alias("vavl-demo", "champion", "1")
    conditions = [line.split()[1] for line in run_program(script, cwd=tmp_path).splitlines()[1:]]
    assert conditions == ["audio_video", "audio", "video"]
