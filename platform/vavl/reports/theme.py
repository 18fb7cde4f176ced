"""Colors of plots and pages, for light and dark screens."""

from __future__ import annotations

from dataclasses import dataclass

from vavl.metrics.names import AUDIO, AUDIO_VIDEO, VIDEO


@dataclass(frozen=True)
class Theme:
    """One set of colors; the page's style sheet uses the same values."""

    name: str  # "light" or "dark"
    surface: str  # behind a plot
    text: str  # words and numbers; `quiet` for axes and notes; `line` for the grid
    quiet: str
    line: str
    ramp: tuple[str, ...]  # from no clip to all clips of a class, for tables of counts
    audio_video: str  # audio_video, audio, video: the three ways to predict a clip
    audio: str
    video: str
    series: tuple[str, ...]  # for lines that are compared, told apart by color-blind readers too

    def of_condition(self, condition: str) -> str:
        """Return the color of a condition; that of quiet text for anything else."""
        known = {AUDIO_VIDEO: self.audio_video, AUDIO: self.audio, VIDEO: self.video}
        return known.get(condition, self.quiet)


LIGHT = Theme(
    name="light",
    surface="#ffffff",
    text="#1d2733",
    quiet="#5d6b7a",
    line="#dfe4ea",
    ramp=("#f4f7fb", "#c5d7ee", "#7ea6d8", "#3a6fb5", "#173f7a"),
    audio_video="#2459a9",
    audio="#b3560a",
    video="#13805f",
    series=("#0b62a4", "#c2540a", "#11845b", "#a6397a", "#8a6d00", "#5b4bb7", "#00798c", "#b3262e"),
)
DARK = Theme(
    name="dark",
    surface="#1a212b",
    text="#e6ebf1",
    quiet="#9dabba",
    line="#36424f",
    ramp=("#202a36", "#29436a", "#3566a8", "#6096dd", "#b9d6ff"),
    audio_video="#7db1f5",
    audio="#f2a65a",
    video="#57c7a1",
    series=("#6cb2f2", "#f39b5f", "#4fc79a", "#ea8bc0", "#dcc04e", "#a99cf2", "#4cc3d6", "#f28086"),
)
THEMES = (LIGHT, DARK)

CONDITION_TITLES = {AUDIO_VIDEO: "audio + video", AUDIO: "audio alone", VIDEO: "video alone"}
