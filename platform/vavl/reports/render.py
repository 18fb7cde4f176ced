"""Render reports from templates: one HTML file each, style and plots inside, no outside address."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from vavl.config.files import write_text
from vavl.metrics.paired import Interval

_PACKAGE = Path(__file__).parents[1]


def write_page(path: Path, template: str, title: str, subtitle: str, **content: Any) -> Path:
    """Write a page, whole or not at all, and return its path.

    Every text is escaped, a name that ``content`` lacks is an error. ``template`` is a path below the package, e.g.
    ``training/report.html``, and extends ``reports/base.html``.
    """
    blocks: dict[str, Any] = dict.fromkeys(("trim_blocks", "lstrip_blocks", "keep_trailing_newline"), True)
    loader = FileSystemLoader(_PACKAGE)
    environment = Environment(loader=loader, autoescape=True, undefined=StrictUndefined, **blocks)
    environment.filters |= {"number": number, "bounds": bounds, "sentence": sentence}
    write_text(path, environment.get_template(template).render(title=title, subtitle=subtitle, **content))
    return path


def is_share(metric: str) -> bool:
    """Tell whether a metric is a share, shown in percent; the name may be ``<split>/<condition>/<metric>``."""
    return not metric.rpartition("/")[2].startswith(("ccc", "loss", "soft_hgr"))


def number(value: float | None, is_share: bool, sign: str = "") -> str:
    """Return a score as it is read: a share in percent, "-" for one that is not known.

    Shares are given from 0 to 1; ``sign`` is "+" for differences.
    """
    if value is None or math.isnan(value):
        return "-"
    return f"{100 * value:{sign}.1f}" if is_share else f"{value:{sign}.3f}"


def bounds(interval: Interval, is_share: bool, sign: str = "") -> str:
    """Return the ends of an interval, "" for one that is not known."""
    if math.isnan(interval.low):
        return ""
    return f"{number(interval.low, is_share, sign)} to {number(interval.high, is_share, sign)}"


def sentence(text: str) -> str:
    """Return a text with a capital at its beginning and a full stop at its end."""
    return f"{text[:1].upper()}{text[1:]}" + ("" if text.endswith((".", "!", "?")) else ".")
