"""Reports need nothing but themselves and escape what they are given."""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from jinja2 import UndefinedError

from vavl.metrics.paired import Interval
from vavl.reports import render
from vavl.reports.plots import Plot, confusion_figure
from vavl.reports.theme import DARK, LIGHT

EVIL = "<script>&"
# Every building block, with the same text wherever a text may stand.
BLOCKS = """
{% extends "reports/base.html" %}
{% import "reports/macros.html" as kit %}
{% block body %}
{% call kit.section(evil, note=evil) %}
{% call kit.table([evil]) %}
{{ kit.group(evil, 1) }}{{ kit.row([evil, kit.with_small(evil, evil), kit.prose(evil, evil)]) }}
{% endcall %}
{% endcall %}
{{ kit.facts({evil: evil}) }}{{ kit.mark(evil, evil) }}{{ kit.paragraphs([evil]) }}{{ kit.plots([plot]) }}
{% call kit.bars() %}{{ kit.bar(evil, 180, note=evil) }}{{ kit.bar("", -3) }}{% endcall %}
{% call kit.tiles() %}{{ kit.tile(evil, evil) }}{% endcall %}
{{ kit.data_marks(true, [evil]) }}{{ kit.score(score, true) }}{{ kit.score(score, false, "+") }}
{% endblock %}
"""


@pytest.fixture
def page(tmp_path, monkeypatch):
    """A page with every building block."""
    (tmp_path / "reports").symlink_to(Path(render.__file__).parent)
    (tmp_path / "blocks.html").write_text(BLOCKS)
    monkeypatch.setattr(render, "_PACKAGE", tmp_path)
    plot = Plot("a", "caption <1>", 'a "table"', confusion_figure(np.eye(2), ["x", "y"]))
    content: dict[str, Any] = {"evil": EVIL, "plot": plot, "score": Interval(0.5, 0.25, 0.75)}
    written = render.write_page(tmp_path / "deep" / "page.html", "blocks.html", EVIL, EVIL, **content)
    return written.read_text(encoding="utf-8")


def test_a_page_has_no_outside_address(page):
    addresses = re.findall(r"""(?:src|srcset|href)="([^"]*)|url\(([^)]*)\)""", page)
    assert len(addresses) == 1
    assert all(address.startswith("data:image/svg+xml;base64,") for address, _ in addresses)
    assert not re.search(r"<script|<link|@import|https?://", page)
    assert 'name="viewport"' in page
    assert "prefers-color-scheme: dark" in page


def test_everything_given_is_escaped(page):
    assert "<script" not in page
    assert page.count("&lt;script&gt;&amp;") == 22
    assert 'a "table"' in html.unescape(page)
    assert 'a "table"' not in page


def test_bars_stay_inside_the_page(page):
    assert "calc(100.00% * .86)" in page
    assert "calc(0.00% * .86)" in page


def test_scores_have_their_interval_in_small_letters(page):
    assert "50.0<small>25.0 to 75.0</small>" in page
    assert "+0.500<small>+0.250 to +0.750</small>" in page
    nothing = float("nan")
    assert (render.number(nothing, is_share=True), render.number(None, is_share=False)) == ("-", "-")
    assert render.bounds(Interval(0.5, nothing, nothing), is_share=True) == ""


def test_a_name_that_is_not_given_is_an_error(tmp_path):
    with pytest.raises(UndefinedError, match="report"):
        render.write_page(tmp_path / "page.html", "training/report.html", "title", "subtitle")


def test_the_style_sheet_has_the_colors_of_the_plots():
    style = Path(render.__file__).with_name("page.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    for theme, part in ((LIGHT, light), (DARK, dark)):
        for name in ("surface", "text", "quiet", "line", "audio_video", "audio", "video"):
            assert f"--{name}: {getattr(theme, name)};" in part, (theme.name, name)
