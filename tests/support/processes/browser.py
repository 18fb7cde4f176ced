"""A page as a headless browser shows it: sizes, pictures, what it asked for, what went wrong."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

NAMES = ("chromium", "chromium-browser", "google-chrome", "chrome")
_SECONDS = 120
_LOOK = """
<script>
window.faults = [];
window.addEventListener("error", (event) => window.faults.push(String(event.message || event.target.src)), true);
window.addEventListener("load", () => {
  const shown = [...document.querySelectorAll("img, svg")].map((picture) => ({
    width: picture.getBoundingClientRect().width, natural: picture.naturalWidth ?? 1,
    alt: picture.getAttribute("alt") ?? "",
  }));
  const letters = [...document.querySelectorAll("p, td, th, dd, dt, small, figcaption, h1, h2")]
    .filter((element) => element.textContent.trim())
    .map((element) => parseFloat(getComputedStyle(element).fontSize));
  const found = {
    wide: document.documentElement.scrollWidth, window: window.innerWidth, pictures: shown,
    letters: Math.min(...letters), asked: performance.getEntriesByType("resource").map((entry) => entry.name),
    faults: window.faults,
  };
  window.parent.postMessage(JSON.stringify(found), "*");
});
</script>
"""
# A window has a least width of its own; a frame can be as narrow as a phone.
_FRAME = """<!doctype html><html><head><script>
window.addEventListener("message", (event) => document.documentElement.setAttribute("data-look", event.data));
</script></head><body style="margin: 0">
<iframe src="page.html" style="width: {width}px; height: 2000px; border: 0"></iframe></body></html>
"""


@dataclass(frozen=True)
class Look:
    """What a browser made of a page.

    Attributes:
        wide: pixels that the page takes; more than ``window`` is a page that moves sideways.
        window: pixels that the window has.
        widths: of every picture, in pixels as shown.
        broken: texts of pictures that did not load.
        letters: height of the smallest letters in pixels.
        asked: addresses that the page loaded, but for those it holds itself.
        faults: errors of scripts and of what was to be loaded.
    """

    wide: int
    window: int
    widths: tuple[float, ...]
    broken: tuple[str, ...]
    letters: float
    asked: tuple[str, ...]
    faults: tuple[str, ...]


def browser() -> str | None:
    """Return the program of a browser, None where there is none."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


def look_at(page: Path, width: int, program: str) -> Look:
    """Open a page in a window of ``width`` pixels; the copy that is opened holds a script that looks."""
    text = page.read_text(encoding="utf-8")
    assert "<head>" in text
    with tempfile.TemporaryDirectory() as folder:
        copy = Path(folder) / "page.html"
        copy.write_text(text.replace("<head>", "<head>" + _LOOK, 1), encoding="utf-8")
        frame = Path(folder) / "frame.html"
        frame.write_text(_FRAME.format(width=width), encoding="utf-8")
        command = [
            program, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", f"--user-data-dir={folder}/user",
            "--disable-background-networking", "--hide-scrollbars", f"--window-size={width},2000",
            "--virtual-time-budget=10000", "--dump-dom", frame.as_uri(),
        ]  # fmt: skip
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=True)
    match = re.search(r'data-look="([^"]*)"', done.stdout)
    assert match, done.stderr[-2000:]
    found = json.loads(html.unescape(match[1]))
    return Look(
        wide=found["wide"],
        window=found["window"],
        widths=tuple(one["width"] for one in found["pictures"]),
        broken=tuple(one["alt"] for one in found["pictures"] if not one["natural"]),
        letters=found["letters"],
        asked=tuple(name for name in found["asked"] if not name.startswith("data:")),
        faults=tuple(found["faults"]),
    )
