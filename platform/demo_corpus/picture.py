"""One clip as pictures: a room, a person in it, and a camera with its faults."""

from __future__ import annotations

from collections.abc import Iterator

import cv2
import numpy as np

from demo_corpus.face import draw_head
from demo_corpus.latent import ClipLatent, generator
from demo_corpus.looks import Look, look_of
from demo_corpus.motion import HeadPlace, face_motion
from demo_corpus.settings import DemoCorpusSettings
from demo_corpus.strokes import CANVAS_PX, CENTRE, Image, canvas, darker, fill, spot

_ZOOM = 1.14  # the head fills the picture as in a video call
_GRAIN_SHIFT_PX = 48


def render_frames(settings: DemoCorpusSettings, latent: ClipLatent) -> Iterator[Image]:
    """Yield the frames of a clip, each (image_size_px, image_size_px, 3), uint8, blue-green-red."""
    rng = generator(settings.seed, latent.clip.clip_id, "camera")
    look = look_of(settings.seed, latent.clip.speaker)
    size = settings.image_size_px
    room = _shrunk(_room(rng), size)
    body = _body(look)
    camera = _Camera(rng, size)
    for pose, place in face_motion(settings, latent):
        shoulders = HeadPlace((place.shift[0] * 0.4, place.shift[1] * 0.4), 1.0, 0.0)
        scene = _laid_over(room, _shrunk(_moved(body, shoulders), size))
        scene = _laid_over(scene, _shrunk(_moved(draw_head(look, pose), place), size))
        yield camera.take(scene)


class _Camera:
    """Exposure, color cast and sensor noise of one clip."""

    def __init__(self, rng: np.random.Generator, size: int) -> None:
        self._rng, self._size = rng, size
        self._gain = (rng.uniform(0.84, 1.06) * rng.uniform(0.96, 1.04, 3)).astype(np.float32)
        self._offset = np.float32(rng.uniform(-6, 8))
        extent = size + _GRAIN_SHIFT_PX
        grain = rng.standard_normal((extent, extent, 3), dtype=np.float32)
        self._grain = grain * np.float32(rng.uniform(1.5, 3.5))

    def take(self, scene: Image) -> Image:
        """Return the scene as the camera sees it at this moment."""
        top, left = self._rng.integers(0, _GRAIN_SHIFT_PX, 2)
        flicker = np.float32(1 + 0.006 * self._rng.standard_normal())
        seen = scene * (self._gain * flicker)
        seen += self._offset
        seen += self._grain[top : top + self._size, left : left + self._size]
        return np.asarray(np.clip(seen, 0, 255), np.uint8)


def _room(rng: np.random.Generator) -> Image:
    """Return (320, 320, 3) a wall with a few things out of focus."""
    wall = rng.uniform(120, 215) * rng.uniform(0.86, 1.08, 3)
    light = np.linspace(rng.uniform(0.9, 1.08), rng.uniform(0.8, 1.0), CANVAS_PX)
    room = np.clip(wall * np.broadcast_to(light, (CANVAS_PX, CANVAS_PX))[..., None], 0, 255).astype(np.uint8)
    for _ in range(int(rng.integers(2, 5))):
        corner, extent = rng.uniform(-30, 300, 2), rng.uniform(30, 110, 2)
        colour = tuple(int(part) for part in np.clip(wall * rng.uniform(0.6, 1.15) * rng.uniform(0.88, 1.1, 3), 0, 255))
        ends = corner + extent
        cv2.rectangle(room, tuple(map(round, corner)), tuple(map(round, ends)), colour, -1)
    return np.asarray(cv2.GaussianBlur(room, (0, 0), rng.uniform(5, 10)), np.uint8)


def _body(look: Look) -> Image:
    """Return neck and shoulders on a transparent canvas."""
    body = canvas()
    x, chin = CENTRE[0], CENTRE[1] + look.face_height
    angle = np.linspace(np.pi, 2 * np.pi, 40)
    shoulders = np.stack([x + 128 * np.cos(angle), chin + 74 + 66 * np.sin(angle)], axis=1)
    fill(body, np.concatenate([shoulders, [[x + 140, 400.0], [x - 140, 400.0]]]), look.shirt)
    spot(body, (x, chin + 10), (40, 20), darker(look.shirt, 0.8))
    spot(body, (x, chin + 6), (34, 19), darker(look.skin, 0.7))
    neck = np.array([[x - 30, chin - 40], [x + 30, chin - 40], [x + 33, chin + 8], [x - 33, chin + 8]])
    fill(body, neck, darker(look.skin, 0.7))
    return body


def _moved(layer: Image, place: HeadPlace) -> Image:
    """Return the layer scaled and tilted around the neck, then shifted."""
    pivot = (CENTRE[0], CENTRE[1] + 80)
    turn = cv2.getRotationMatrix2D(pivot, place.tilt_degrees, place.scale * _ZOOM)
    turn[:, 2] += place.shift + np.array([0.0, 6.0])
    moved = cv2.warpAffine(layer, turn, (CANVAS_PX, CANVAS_PX), flags=cv2.INTER_LINEAR)
    return np.asarray(moved, np.uint8)


def _shrunk(picture: Image, size: int) -> Image:
    return np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_AREA), np.uint8)


def _laid_over(scene: Image, layer: Image) -> Image:
    """Return the scene (size, size, 3) with a layer (size, size, 4) of premultiplied alpha over it."""
    shines_through = cv2.cvtColor(255 - layer[..., 3], cv2.COLOR_GRAY2BGR)
    behind = cv2.multiply(scene, shines_through, scale=1 / 255)
    return np.asarray(cv2.add(behind, cv2.cvtColor(layer, cv2.COLOR_BGRA2BGR)), np.uint8)
