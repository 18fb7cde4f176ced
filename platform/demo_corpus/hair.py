"""Hair and beards: what lies behind the face and what falls over it."""

from __future__ import annotations

import cv2
import numpy as np

from demo_corpus.looks import Look
from demo_corpus.strokes import CENTRE, Image, Points, darker, fill, spot

# How far the fringe comes down, and where its parting is.
_FRINGES = {"bob": (0.50, 0.0), "long": (0.50, 0.0), "bun": (0.36, 0.0), "parted": (0.46, 0.5), "short": (0.38, 0.12)}


def draw_back_hair(head: Image, look: Look) -> None:
    """Draw what is seen behind the face."""
    x, y = CENTRE
    wide, high = look.face_width, look.face_height
    behind = darker(look.hair, 0.72)
    match look.hair_style:
        case "long":
            fill(head, _mane(wide + 17, high + 16, 1.05), behind)
        case "bob":
            fill(head, _mane(wide + 18, high + 14, 0.62), behind)
        case "bun":
            spot(head, (x, y - high - 10), (30, 24), look.hair)
            spot(head, (x, y - 20), (wide + 7, high - 4), behind)
        case "curls":
            for angle in np.linspace(-1.12 * np.pi, 0.12 * np.pi, 13):
                place = (x + (wide + 6) * np.cos(angle), y - 12 + (high + 2) * np.sin(angle))
                spot(head, place, (23, 23), behind)
        case "short" | "parted" | "spikes":
            spot(head, (x, y - 26), (wide + 6, high - 14), behind)
        case "bald":
            pass


def draw_front_hair(head: Image, look: Look) -> None:
    """Draw what falls over the forehead; it stays above the brows."""
    x, y = CENTRE
    wide, high = look.face_width, look.face_height
    match look.hair_style:
        case "bob" | "long" | "bun" | "parted" | "short":
            depth, sweep = _FRINGES[look.hair_style]
            fill(head, _fringe(look, depth, sweep), look.hair)
        case "spikes":
            fill(head, _spikes(look), look.hair)
        case "curls":
            for step in np.linspace(-1, 1, 9):
                place = (x + wide * 0.92 * step, y - high * (0.95 - 0.36 * step**2))
                spot(head, place, (17, 16), look.hair)
                spot(head, (place[0] - 4, place[1] - 4), (6, 6), darker(look.hair, 1.35))
        case "bald":
            spot(head, (x - 22, y - high * 0.72), (15, 7), darker(look.skin, 1.14))


def draw_beard(head: Image, look: Look) -> None:
    """Draw the beard below the moving mouth."""
    lip = CENTRE[1] + look.mouth_height
    match look.beard:
        case "moustache":
            across = np.linspace(-1, 1, 15)
            top = lip - 17 + 9 * np.abs(across) ** 1.5
            thick = 9 * (1 - across**2) ** 0.5
            shape = [np.stack([CENTRE[0] + 27 * across, edge], axis=1) for edge in (top, top + thick)]
            fill(head, np.concatenate([shape[0], shape[1][::-1]]), look.hair)
        case "stubble":
            angle = np.linspace(0.06 * np.pi, 0.94 * np.pi, 30)
            outer = np.stack([look.face_width * look.jaw * np.cos(angle), look.face_height * np.sin(angle)], axis=1)
            inner = np.stack([0.62 * look.face_width * np.cos(angle), 18 + 40 * np.sin(angle)], axis=1)
            mask = np.zeros(head.shape[:2], np.uint8)
            fill(mask, np.concatenate([outer, inner[::-1]]) * (0.97, 0.98) + CENTRE, 255)
            share = 0.42 * cv2.GaussianBlur(mask, (0, 0), 5).astype(np.float32)[..., None] / 255
            shade = np.array(darker(look.hair, 0.7), np.float32)
            head[..., :3] = (head[..., :3] * (1 - share) + shade * share * (head[..., 3:] / 255)).astype(np.uint8)
        case "none":
            pass


def _mane(wide: float, high: float, length: float) -> Points:
    """Return the outline of hair that falls from the crown to ``length`` times the face's half height."""
    angle = np.linspace(np.pi, 2 * np.pi, 30)
    top = np.stack([wide * np.cos(angle), high * np.sin(angle)], axis=1)
    ends = np.array(
        [
            [wide + 5, high * length * 0.6],
            [wide - 3, high * length],
            [3 - wide, high * length],
            [-wide - 5, high * length * 0.6],
        ]
    )
    return np.concatenate([top, ends]) + CENTRE


def _crown(look: Look, size: float) -> Points:
    """Return the upper edge of the hair from right to left."""
    angle = np.linspace(-0.10 * np.pi, -0.90 * np.pi, 30)
    edge = np.stack([(look.face_width + 6) * np.cos(angle), look.face_height * 1.08 * np.sin(angle)], axis=1)
    return edge * size + CENTRE


def _fringe(look: Look, depth: float, sweep: float) -> Points:
    """Return hair from the crown down to a hairline; ``sweep`` puts the parting to one modality."""
    across = np.linspace(-1, 1, 25)
    line_height = 0.98 - depth * (0.55 + 0.45 * np.abs(across - sweep) ** 1.2)
    sides = np.abs(across) > 0.96
    line_height = np.where(sides, 0.22, line_height)
    edge = np.stack([look.face_width * 1.02 * across, -look.face_height * line_height], axis=1) + CENTRE
    return np.concatenate([edge, _crown(look, 1.0)])


def _spikes(look: Look) -> Points:
    """Return short hair that stands up in points."""
    steps = np.linspace(-1, 1, 15)
    edge = -0.92 * look.face_height * np.sqrt(1 - 0.72 * steps**2) + np.where(np.arange(15) % 2 == 0, 20, -20)
    return np.concatenate([np.stack([look.face_width * steps, edge], axis=1) + CENTRE, _crown(look, 1.03)])
