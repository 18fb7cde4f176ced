"""One picture of the corpus: a face per emotion for some speakers, taken from the rendered files."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np

from demo_corpus.latent import ClipLatent, clip_latent, clips_of, speakers_of
from demo_corpus.motion import face_motion
from demo_corpus.settings import EMOTIONS, DemoCorpusSettings, video_path
from demo_corpus.strokes import Image
from vavl.config.files import written_beside

_TITLE_PX, _MARGIN_PX = 26, 44


def write_contact_sheet(root: Path, settings: DemoCorpusSettings, speakers: int = 6) -> Path:
    """Write ``contact_sheet.png``: a row per speaker, a column per emotion, each from the clearest take."""
    names = speakers_of(settings)
    chosen = [names[place] for place in np.linspace(0, len(names) - 1, min(speakers, len(names))).round().astype(int)]
    clearest = _clearest_takes(settings)
    rows = [_titles(settings)]
    for speaker in chosen:
        faces = [_face_at_peak(root, settings, clearest[speaker, emotion]) for emotion in EMOTIONS]
        rows.append(np.hstack([_label(speaker, settings), *faces]))
    path = root / "contact_sheet.png"
    with written_beside(path) as partial:
        partial.write_bytes(cv2.imencode(".png", np.vstack(rows))[1].tobytes())
    return path


def _clearest_takes(settings: DemoCorpusSettings) -> dict[tuple[str, str], ClipLatent]:
    """Return for each speaker and emotion the clip whose face stands out most for its own emotion."""
    clearest: dict[tuple[str, str], ClipLatent] = {}
    for clip in clips_of(settings):
        latent, key = clip_latent(settings, clip), (clip.speaker, clip.emotion)
        if key not in clearest or _clarity(latent) > _clarity(clearest[key]):
            clearest[key] = latent
    return clearest


def _clarity(latent: ClipLatent) -> float:
    pure = [float(name == latent.clip.emotion) for name in EMOTIONS]
    return -float(np.linalg.norm(latent.face - pure))


def _face_at_peak(root: Path, settings: DemoCorpusSettings, latent: ClipLatent) -> Image:
    """Read the frame at the peak of the expression, or the next one without a blink."""
    blinks = np.array([pose.blink for pose, _ in face_motion(settings, latent)])
    away = np.abs(np.arange(len(blinks)) / len(blinks) - latent.peak - 0.05)
    place = int(np.argmin(away + blinks))
    path = video_path(root, latent.clip.speaker, latent.clip.clip_id)
    with av.open(str(path)) as container:
        frames = islice(container.decode(video=0), place, None)
        picture: Image = next(frames).to_ndarray(format="bgr24")
    return picture


def _titles(settings: DemoCorpusSettings) -> Image:
    size = settings.image_size_px
    strip = np.full((_TITLE_PX, _MARGIN_PX + size * len(EMOTIONS), 3), 255, np.uint8)
    for column, emotion in enumerate(EMOTIONS):
        _write(strip, emotion, (_MARGIN_PX + column * size + 8, 18))
    return strip


def _label(speaker: str, settings: DemoCorpusSettings) -> Image:
    strip = np.full((settings.image_size_px, _MARGIN_PX, 3), 255, np.uint8)
    _write(strip, speaker, (6, settings.image_size_px // 2))
    return strip


def _write(image: Image, text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.5, (40, 40, 40), 1, cv2.LINE_AA)
