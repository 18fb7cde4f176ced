"""Timelines as files: a picture for each of some clips."""

from __future__ import annotations

import hashlib
import logging
import re
import warnings
from pathlib import Path

from vavl.errors import ConfigError, VavlError
from vavl.models.saved_model import load_model
from vavl.prediction.plan import PredictionPlan
from vavl.prediction.settings import PredictionSettings
from vavl.prediction.sources import ClipInput, MediaSource, Side
from vavl.prediction.timeline import clip_course, clip_media
from vavl.prediction.timeline_picture import TimelineText, timeline_figure
from vavl.reports.plots import write_png
from vavl.reports.theme import THEMES

logger = logging.getLogger(__name__)

_ODD = re.compile(r"[^\w.-]+")
_LONGEST_NAME = 80


def check_timeline(plan: PredictionPlan, settings: PredictionSettings) -> None:
    """Refuse timelines of what has no media, and of pieces.

    Raises:
        ConfigError: the input is a store, or a table of pieces.
    """
    if settings.timeline and any(clip.piece is not None for clip in plan.found.clips):
        raise ConfigError(
            "prediction", "timeline", "shows whole files, and the table names pieces", "set timeline=false",
        )  # fmt: skip
    if settings.timeline and not isinstance(plan.source, MediaSource):
        raise ConfigError(
            "prediction", "timeline", "a store holds no audio and no video to draw",
            "name the media themselves as input, or set timeline=false",
        )  # fmt: skip


def write_timelines(plan: PredictionPlan, settings: PredictionSettings, model_title: str) -> list[Path]:
    """Draw the course of the prediction within the first clips; one that cannot be drawn is told in the log.

    Returns:
        The pictures: ``timeline.png`` for a single file, else ``timelines/<clip>.png``.
    """
    if not settings.timeline or not isinstance(plan.source, MediaSource):
        return []
    clips = [clip for clip in plan.found.clips if clip.problem is None]
    most = settings.windows.most_clips
    if len(clips) > most:
        logger.warning("of %d clips the first %d get a timeline (windows.most_clips)", len(clips), most)
    drawer = TimelineDrawer(plan, plan.source, settings, model_title)
    drawn = []
    for clip in clips[:most]:
        name = "timeline" if plan.found.kind == "file" else f"timelines/{_file_name(clip.clip_id)}"
        path = settings.directory / f"{name}.png"
        try:
            drawer.draw(clip, path)
        except ConfigError:
            raise
        except VavlError as error:
            logger.warning("%s has no timeline: %s", clip.clip_id, error)
        else:
            drawn.append(path)
    return drawn


def _file_name(clip_id: str) -> str:
    """Return a name of one file; two clips never share it."""
    plain = _ODD.sub("_", clip_id)[:_LONGEST_NAME]
    return plain if plain == clip_id else f"{plain}-{hashlib.sha256(clip_id.encode()).hexdigest()[:8]}"


class TimelineDrawer:
    """Draws clips with one model."""

    def __init__(
        self, plan: PredictionPlan, source: MediaSource, settings: PredictionSettings, model_title: str
    ) -> None:
        self._plan, self._source, self._settings, self._title = plan, source, settings, model_title
        self._model = load_model(plan.model_directory)
        self._reader = source.reader(plan.model)

    def draw(self, clip: ClipInput, path: Path) -> None:
        """Draw the timeline of a clip into a PNG.

        Raises:
            ClipError: no side of the clip can be read.
            InputError: the features have one frame for a whole clip.
        """
        windows = self._settings.windows
        files, sides = self._sides(clip)
        course = clip_course(self._model, sides, windows, self._settings.clips_per_batch)
        media = clip_media(files, self._plan.model.video.extractor, windows.thumbnails)
        seen = f"{windows.window_s:g} s at a time, every {windows.hop_s:g} s"
        text = TimelineText(clip.clip_id, self._title, seen)
        theme = next(theme for theme in THEMES if theme.name == windows.theme)
        with warnings.catch_warnings():
            # A name in letters that the font lacks is drawn as boxes.
            warnings.filterwarnings("ignore", message="Glyph .* missing from font")
            write_png(timeline_figure(course, media, text, theme), path)

    def _sides(self, clip: ClipInput) -> tuple[dict[str, Path], dict[str, Side]]:
        """Read the modalities of a clip; a bad one is left out as long as there is another."""
        files, sides = {}, {}
        named = self._reader.sides(clip)
        for modality, file in named.items():
            try:
                sides[modality] = self._reader.read(clip, modality, file)[0]
                files[modality] = self._source.root / file
            except ConfigError:
                raise
            except VavlError as error:
                if len(named) == 1:
                    raise
                logger.warning("the timeline of %s leaves out its %s: %s", clip.clip_id, modality, error.problem)
        return files, sides
