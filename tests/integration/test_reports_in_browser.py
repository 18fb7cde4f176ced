"""Reports in a real browser: nothing broken, nothing from outside, readable on a phone and on a desk."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
from browser import NAMES, browser, look_at
from evaluation_content import evaluation_content, write_content
from promotion_content import promotion_content

import vavl.promotion.report

# Writes a report of its kind into a directory, and how many plots that has.
REPORTS = {
    "evaluation": (partial(write_content, evaluation_content()), 6),
    "promotion": (lambda directory: vavl.promotion.report.write_pages(promotion_content(), [], directory)[0], 1),
}


@pytest.fixture(scope="module")
def program() -> str:
    found = browser()
    if found is None:
        pytest.skip(f"no browser is installed: none of {', '.join(NAMES)}")
    return found


@pytest.mark.parametrize("width", [400, 1400])
@pytest.mark.parametrize("kind", REPORTS)
def test_a_report_is_whole_and_readable(program: str, kind: str, width: int, tmp_path: Path) -> None:
    write, pictures = REPORTS[kind]
    page = write(tmp_path)
    assert "<script" not in page.read_text(encoding="utf-8")
    look = look_at(page, width, program)
    assert look.window == width
    assert look.wide <= width
    assert (look.broken, look.faults, look.asked) == ((), (), ())
    assert len(look.widths) == pictures
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
