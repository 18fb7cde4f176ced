"""Reports in a real browser: nothing broken, nothing from outside, readable on a phone and on a desk."""

from __future__ import annotations

from pathlib import Path

import pytest
from browser import NAMES, browser, look_at
from evaluation_content import evaluation_content

from vavl.reports.evaluation_report import write_evaluation_report

PICTURES = 6


@pytest.fixture(scope="module")
def program() -> str:
    found = browser()
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    return found


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_evaluation_report(evaluation_content(), tmp_path_factory.mktemp("report"))


@pytest.mark.parametrize("width", [400, 1400])
def test_an_evaluation_is_whole_and_readable(program: str, page: Path, width: int) -> None:
    assert "<script" not in page.read_text(encoding="utf-8")
    look = look_at(page, width, program)
    assert look.window == width
    assert look.wide <= width
    assert (look.broken, look.faults, look.asked) == ((), (), ())
    assert len(look.widths) == PICTURES
    assert all(250 <= shown <= width for shown in look.widths)
    assert look.letters >= 10


def test_the_look_itself_sees_what_is_wrong(program: str, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    page.write_text(
        '<!doctype html><html><head></head><body><p style="width: 900px; font-size: 5px">wide</p>'
        '<img src="missing.png" alt="gone"><script>nothing.here</script></body></html>'
    )
    look = look_at(page, 400, program)
    assert look.wide > 800
    assert look.letters == 5
    assert look.broken == ("gone",)
    assert any("nothing is not defined" in fault for fault in look.faults)
    assert any(name.endswith("missing.png") for name in (*look.asked, *look.faults))
