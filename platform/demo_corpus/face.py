"""Draw one cartoon face: the still head of a speaker, and the features that move over it.

The shading is not only for charm. OpenCV's frontal-face cascade looks for an eye region that is darker
than forehead and cheeks, a nose bridge lighter than both eyes and a mouth darker than the chin.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np
from numpy.typing import NDArray

from demo_corpus.looks import Look
from demo_corpus.strokes import CENTRE, Colour, Image, Points, at, canvas, darker, fill, line, spot

_ACROSS = np.linspace(-1, 1, 19)  # places along a lip or a lid, from left to right
_LIPS, _MOUTH, _TEETH, _TONGUE = (92, 92, 176), (38, 28, 66), (226, 236, 240), (108, 104, 200)
_EYE_WHITE, _EYE_SHADE = (196, 206, 212), (150, 158, 170)


@dataclass(frozen=True)
class Pose:
    """The face at one moment; 0 is at rest and 1 a strong expression unless stated otherwise."""

    smile: float = 0.0  # corners of the mouth up (+) or down (-)
    mouth_open: float = 0.0  # gap between the lips
    mouth_stretch: float = 0.0  # wide (+) or rounded (-)
    brow_raise: float = 0.0  # both brows up (+) or down (-)
    brow_slant: float = 0.0  # inner ends down as in anger (+) or up as in sorrow (-)
    eye_open: float = 0.0  # wide (+) or drooping (-) upper lids
    squint: float = 0.0  # lower lids raised
    blink: float = 0.0  # 0 open to 1 shut
    gaze: tuple[float, float] = (0.0, 0.0)  # direction of the eyes, horizontal and vertical, in pixels
    # the head's turn and nod, seen as a shift of the features over the head, in pixels
    turn: tuple[float, float] = (0.0, 0.0)


def draw_head(look: Look, pose: Pose) -> Image:
    """Draw a head on a transparent canvas.

    Returns:
        (320, 320, 4), uint8, blue-green-red with premultiplied alpha.
    """
    head = _with_open_jaw(_still_head(look), 10 * max(pose.mouth_open, 0.0))
    middle = np.array([CENTRE[0] + pose.turn[0], CENTRE[1] + pose.turn[1]])
    _draw_nose(head, look, middle + at(pose.turn[0] * 0.4, 0))
    for side in (-1, 1):
        _draw_eye(head, look, pose, middle, side)
        _draw_brow(head, look, pose, middle, side)
    _draw_mouth(head, look, pose, middle)
    if look.glasses:
        _draw_glasses(head, look, middle)
    return head


@lru_cache(maxsize=16)
def _still_head(look: Look) -> Image:
    head = canvas()
    draw_back_hair(head, look)
    for side in (-1, 1):
        ear = (CENTRE[0] + side * (look.face_width + 1), CENTRE[1] + 4)
        spot(head, ear, (11, 19), darker(look.skin, 0.86))
        spot(head, (ear[0] - side * 2, ear[1]), (6, 12), darker(look.skin, 0.68))
    mask = canvas()
    fill(mask, face_outline(look), (255, 255, 255))
    share = mask[..., 3:].astype(np.float32) / 255
    skin = np.clip(np.array(look.skin, np.float32) * _shading(look)[..., None], 0, 255)
    head[..., :3] = (head[..., :3] * (1 - share) + skin * share).astype(np.uint8)
    head[..., 3:] = (head[..., 3:] * (1 - share) + 255 * share).astype(np.uint8)
    if look.freckles:
        for side in (-1, 1):
            for step in range(5):
                place = (CENTRE[0] + side * (26 + 7 * step), CENTRE[1] + 22 + (step * 7) % 5 * 2)
                spot(head, place, (1.6, 1.6), darker(look.skin, 0.72))
    draw_beard(head, look)
    draw_front_hair(head, look)
    head.setflags(write=False)
    return head


def face_outline(look: Look) -> Points:
    """Return (points, 2) the outline of the face: round on top, narrowing to the chin by ``look.jaw``."""
    angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
    across, down = np.cos(angle), np.sin(angle)
    narrow = np.where(down > 0, 1 - (1 - look.jaw * 0.9) * down**2, 1.0)
    x = look.face_width * np.sign(across) * np.abs(across) ** 0.85 * narrow
    return np.stack([x, look.face_height * down], axis=1) + CENTRE


def _shading(look: Look) -> NDArray[np.float32]:
    """Return (320, 320) light on the skin: 1 is the skin's own color."""
    y, x = np.mgrid[0:320, 0:320].astype(np.float32)
    x, y = x - CENTRE[0], y - CENTRE[1]

    def glow(x0: float, y0: float, width: float, height: float) -> NDArray[np.float32]:
        spread: NDArray[np.float32] = ((x - x0) / width) ** 2 + ((y - y0) / height) ** 2
        return np.exp(-spread)

    light = 1.02 - 0.19 * np.clip((x / look.face_width) ** 2, 0, 1) ** 1.6
    light += 0.18 * glow(0, -56, 46, 20) - 0.10 * glow(0, look.face_height, 50, 16)
    light += 0.18 * glow(0, look.eye_height + 4, 9, 34)  # bridge of the nose
    for side in (-1, 1):
        light -= 0.42 * glow(side * look.eye_gap, look.eye_height - 5, 25, 15)  # eye sockets
        light += 0.18 * glow(side * 38, 24, 22, 15)  # cheeks
    light -= 0.10 * glow(0, look.mouth_height + 16, 20, 7)
    light += 0.08 * glow(0, look.mouth_height + 28, 18, 10)  # chin
    return np.asarray(light, np.float32)


def _with_open_jaw(head: Image, drop: float) -> Image:
    """Return a copy whose part below the nose is ``drop`` pixels longer."""
    hinge = int(CENTRE[1]) + 28
    lower = cv2.resize(head[hinge:], (320, 320 - hinge + round(drop)), interpolation=cv2.INTER_LINEAR)
    return np.concatenate([head[:hinge], lower[: 320 - hinge]])


def _draw_eye(head: Image, look: Look, pose: Pose, middle: Points, side: int) -> None:
    centre = middle + at(side * look.eye_gap, look.eye_height)
    wide = look.eye_size
    lid = max(0.0, (0.62 + 0.46 * pose.eye_open) * (1 - pose.blink))
    upper = -wide * lid * (1 - _ACROSS**2) ** 0.7
    lower = wide * 0.40 * (1 - 0.75 * max(pose.squint, 0.0)) * (1 - 0.6 * pose.blink) * (1 - _ACROSS**2)
    x = _ACROSS * wide
    upper_lid, lower_lid = np.stack([x, upper], axis=1) + centre, np.stack([x, lower], axis=1) + centre
    opening = np.concatenate([upper_lid, lower_lid[::-1]])
    fill(head, upper_lid - at(0, 3.0), darker(look.skin, 0.62))
    _draw_eyeball(head, look, opening, (centre + pose.gaze, upper_lid))
    line(head, upper_lid, (30, 24, 26), 3.4)
    line(head, lower_lid[4:-4], darker(look.skin, 0.55), 1.4)
    if look.lashes:
        outer = upper_lid[0 if side < 0 else -1]
        line(head, np.stack([outer, outer + at(side * 5, -4)]), (30, 24, 26), 2.6)


def _draw_eyeball(head: Image, look: Look, opening: Points, inside: tuple[Points, Points]) -> None:
    """Fill the opening between the lids; pupil and the upper lid's shadow, ``inside``, never leave it."""
    left, top = np.floor(opening.min(axis=0)).astype(int) - 2
    right, bottom = np.ceil(opening.max(axis=0)).astype(int) + 3
    place = (slice(top, bottom), slice(left, right))
    patch, mask = head[place].copy(), np.zeros((bottom - top, right - left), np.uint8)
    patch[:] = (*_EYE_WHITE, 255)
    pupil, shadow = inside[0] - (left, top), inside[1] - (left, top)
    line(patch, shadow + at(0, 2.0), _EYE_SHADE, 5)
    spot(patch, pupil, (10.0, 10.0), darker(look.iris, 0.5))
    spot(patch, pupil, (8.2, 8.2), darker(look.iris, 0.9))
    spot(patch, pupil, (5.2, 5.2), (16, 12, 12))
    spot(patch, pupil + at(2.6, -3.2), (2.0, 2.0), (250, 250, 250))
    fill(mask, opening - (left, top), 255)
    share = mask[..., None].astype(np.float32) / 255
    head[place] = (head[place] * (1 - share) + patch * share).astype(np.uint8)


def _draw_brow(head: Image, look: Look, pose: Pose, middle: Points, side: int) -> None:
    along = np.linspace(0, 1, 9)  # from the nose outwards
    x = side * (look.eye_gap - look.eye_size * 1.05 - 2 * max(pose.brow_slant, 0.0) + along * look.eye_size * 2.2)
    y = look.eye_height - look.brow_height - 11 * (pose.brow_raise + look.resting_brow) - 4 * np.sin(np.pi * along)
    y = y + 11 * pose.brow_slant * (1 - 1.7 * along)
    thick = look.brow_thickness * (1 - 0.55 * along**2)
    upper, lower = np.stack([x, y - thick / 2], axis=1), np.stack([x, y + thick / 2], axis=1)
    fill(head, np.concatenate([upper, lower[::-1]]) + middle, _mix(darker(look.hair, 0.6), (28, 24, 26), 0.35))
    if pose.brow_slant > 0.5:
        frown = np.array([[side * 6, look.eye_height - 19], [side * 4, look.eye_height - 11]])
        line(head, frown + middle, darker(look.skin, 0.72), 1.4)


def _draw_nose(head: Image, look: Look, middle: Points) -> None:
    tip = middle + at(0, look.eye_height + look.nose_length)
    shade = darker(look.skin, 0.66)
    turn = np.linspace(0.12 * np.pi, 0.88 * np.pi, 9)
    line(head, tip + np.stack([look.nose_width * np.cos(turn), 6 * np.sin(turn)], axis=1), shade, 2.4)
    for side in (-1, 1):
        spot(head, tip + at(side * look.nose_width * 0.45, 3.6), (2.8, 1.9), darker(look.skin, 0.45))


def _draw_mouth(head: Image, look: Look, pose: Pose, middle: Points) -> None:
    gap = max(0.0, 24 * pose.mouth_open)
    bend = 16 * (pose.smile + look.resting_smile)
    x = look.mouth_width * (1 + 0.16 * abs(pose.smile) + 0.3 * pose.mouth_stretch) * _ACROSS
    level = look.mouth_height + bend * (0.45 - _ACROSS**2)
    full = 1 - _ACROSS**2
    inner_top, inner_bottom = level - 0.25 * gap * full, level + 0.85 * gap * full**0.8
    bow = 1 - 0.35 * np.exp(-((_ACROSS / 0.16) ** 2))
    top = inner_top - look.lip_thickness * full**0.6 * bow
    bottom = inner_bottom + 1.25 * look.lip_thickness * full**0.6

    def between(one: Points, other: Points) -> Points:
        there, back = np.stack([x, one], axis=1), np.stack([x, other], axis=1)[::-1]
        return np.concatenate([there, back]) + middle

    lips = _mix(look.skin, _LIPS, 0.75 if look.lashes else 0.45)
    fill(head, between(top, bottom), lips)
    if gap > 1.5:
        fill(head, between(inner_top, inner_bottom), _MOUTH)
        fill(head, between(np.maximum(inner_bottom - 0.4 * gap, inner_top), inner_bottom), _TONGUE)
        fill(head, between(inner_top, np.minimum(inner_top + 5, inner_bottom)), _TEETH)
    line(head, np.stack([x, inner_top], axis=1) + middle, _MOUTH, 2.2)
    if pose.smile > 0.4:
        for side in (-1, 1):
            fold = np.array([[0, -14], [4, -7], [4, 1]]) * (side, 1) + (
                side * (x[-1] + 5),
                look.mouth_height - bend * 0.5,
            )
            line(head, fold + middle, darker(look.skin, 0.74), 1.8)


def _draw_glasses(head: Image, look: Look, middle: Points) -> None:
    turn = np.linspace(0, 2 * np.pi, 40)
    for side in (-1, 1):
        rim = np.stack([22 * np.cos(turn), 17 * np.sin(turn)], axis=1)
        line(head, rim + middle + at(side * look.eye_gap, look.eye_height), (48, 40, 40), 2.6)
    bridge = np.array([[-look.eye_gap + 22, -3], [0, -7], [look.eye_gap - 22, -3]]) + at(0, look.eye_height)
    line(head, bridge + middle, (48, 40, 40), 2.6)


def _mix(one: Colour, other: Colour, share: float) -> Colour:
    blue, green, red = (round(a * (1 - share) + b * share) for a, b in zip(one, other, strict=True))
    return blue, green, red


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
