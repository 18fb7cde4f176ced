"""Pages need nothing but themselves and escape what they are given."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from vavl.reports import page
from vavl.reports.page import Bar, Tile
from vavl.reports.pictures import Picture, confusion_figure
from vavl.reports.theme import DARK, LIGHT


def _picture() -> Picture:
    return Picture(
        "a", "caption <1>", 'a "table"', lambda theme: confusion_figure(np.eye(2), ["x", "y"], theme)
    )


def test_a_page_has_no_outside_address(tmp_path: Path) -> None:
    path = page.write_page(
        tmp_path / "deep" / "page.html", "Title", "subtitle",
        [page.section("Pictures", page.pictures([_picture()])), page.tiles([Tile("81 %", "accuracy", "audio")])],
    )  # fmt: skip
    text = path.read_text(encoding="utf-8")
    addresses = re.findall(r"""(?:src|srcset|href)="([^"]*)|url\(([^)]*)\)""", text)
    assert len(addresses) == 1
    assert all(address.startswith("data:image/svg+xml;base64,") for address, _ in addresses)
    assert not re.search(r"<script|<link|@import|https?://", text)
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text


def test_everything_given_is_escaped() -> None:
    evil = "<script>&"
    parts = [
        page.section(evil, page.table([evil], [[evil], [evil, evil]]), note=evil),
        page.facts({evil: evil}), page.bars([Bar(evil, 5, note=evil)]), page.tiles([Tile(evil, evil)]),
        page.mark(evil, evil), page.paragraphs([evil]), page.pictures([_picture()]),
    ]  # fmt: skip
    text = page.page(evil, evil, parts)
    assert "<script" not in text
    assert text.count("&lt;script&gt;&amp;") == 18
    assert 'alt="a &quot;table&quot;"' in text


def test_the_style_sheet_has_the_colours_of_the_pictures() -> None:
    style = Path(page.__file__).with_name("page.css").read_text()
    light, dark = style.split("@media (prefers-color-scheme: dark)", 1)
    for theme, part in ((LIGHT, light), (DARK, dark)):
        for name in ("surface", "text", "quiet", "line", "audio_video", "audio", "video"):
            assert f"--{name}: {getattr(theme, name)};" in part, (theme.name, name)


def test_bars_stay_inside_the_page() -> None:
    text = page.bars([Bar("too long", 180), Bar("negative", -3)]).text
    assert "calc(100.00% * .86)" in text
    assert "calc(0.00% * .86)" in text
