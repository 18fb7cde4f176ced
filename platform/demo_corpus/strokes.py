"""Filled shapes and lines with sub-pixel places, on the canvas where faces are drawn."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
Points = NDArray[np.float64]
Colour = tuple[int, int, int]  # blue, green, red

CANVAS_PX = 320
CENTRE = (160.0, 164.0)
_SHIFT = 4  # OpenCV takes places as integers of 1/16 pixel


def canvas() -> Image:
    """Return a transparent canvas: (320, 320, 4), uint8, premultiplied alpha."""
    return np.zeros((CANVAS_PX, CANVAS_PX, 4), np.uint8)


def at(x: float, y: float) -> Points:
    """Return (2,) a place or a shift in pixels."""
    return np.array([x, y])


def darker(colour: Colour, share: float) -> Colour:
    """Return ``colour`` with its light multiplied by ``share``."""
    blue, green, red = (min(255, round(part * share)) for part in colour)
    return blue, green, red


def fill(image: Image, points: Points, colour: Colour | int) -> None:
    """Fill the polygon with corners (n, 2) in pixels; a color is opaque, a number fills a mask."""
    cv2.fillPoly(image, [_fixed(points)], _paint(colour), cv2.LINE_AA, _SHIFT)


def line(image: Image, points: Points, colour: Colour, width: float) -> None:
    """Draw a smooth line of ``width`` pixels through (n, 2) points."""
    cv2.polylines(image, [_fixed(points)], False, _paint(colour), max(1, round(width)), cv2.LINE_AA, _SHIFT)


def spot(image: Image, centre: Any, radii: tuple[float, float], colour: Colour) -> None:
    """Fill an upright ellipse."""
    x, y = _fixed(np.asarray(centre)).tolist()
    axes = round(radii[0] * 2**_SHIFT), round(radii[1] * 2**_SHIFT)
    cv2.ellipse(image, (x, y), axes, 0, 0, 360, _paint(colour), -1, cv2.LINE_AA, _SHIFT)


def _fixed(points: Points) -> NDArray[np.int32]:
    return np.asarray(np.round(points * 2**_SHIFT), np.int32)


def _paint(colour: Colour | int) -> Any:
    return colour if isinstance(colour, int) else (*colour, 255)
