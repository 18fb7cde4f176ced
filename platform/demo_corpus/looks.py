"""How a speaker looks: drawn once per speaker from the seed, the same in all of the speaker's clips."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from demo_corpus.latent import generator
from demo_corpus.strokes import Colour

HairStyle = Literal["bob", "long", "bun", "curls", "short", "parted", "bald", "spikes"]
Beard = Literal["none", "moustache", "stubble"]

_SKINS: tuple[Colour, ...] = (
    (164, 188, 222), (143, 176, 216), (122, 160, 208), (98, 140, 192), (76, 112, 164), (62, 92, 138),
)  # fmt: skip
_HAIRS: tuple[Colour, ...] = (
    (38, 30, 26), (36, 52, 82), (46, 82, 132), (92, 150, 204), (42, 62, 150), (120, 116, 112),
)  # fmt: skip
_IRISES: tuple[Colour, ...] = ((40, 62, 92), (110, 82, 40), (56, 92, 66), (34, 40, 52))
_SHIRTS: tuple[Colour, ...] = (
    (168, 120, 62), (72, 140, 92), (82, 92, 200), (176, 160, 70), (150, 88, 140), (60, 160, 214),
)  # fmt: skip
_WOMEN_SKIN, _WOMEN_HAIR = (0, 5, 3, 2, 1, 0), (1, 0, 1, 4, 5, 2)
_MEN_SKIN, _MEN_HAIR = (3, 2, 0, 1, 5, 4), (0, 5, 4, 3, 1, 0)
_WOMEN_STYLE: tuple[HairStyle, ...] = ("bob", "long", "bun", "curls", "parted", "long")
_MEN_STYLE: tuple[HairStyle, ...] = ("short", "spikes", "bald", "parted", "curls", "short")
_BEARDS: tuple[Beard, ...] = ("none", "none", "moustache", "none", "none", "stubble")


@dataclass(frozen=True)
class Look:
    """Lengths are in pixels of the drawing canvas (320 x 320), measured from the center of the face."""

    skin: Colour
    hair: Colour
    iris: Colour
    shirt: Colour
    hair_style: HairStyle
    beard: Beard
    glasses: bool
    lashes: bool
    freckles: bool
    face_width: float
    face_height: float
    jaw: float
    eye_gap: float
    eye_size: float
    eye_height: float
    brow_thickness: float
    brow_height: float
    nose_length: float
    nose_width: float
    mouth_width: float
    mouth_height: float
    lip_thickness: float
    resting_smile: float
    resting_brow: float


def look_of(seed: int, speaker: str) -> Look:
    """Draw the look of ``speaker``, e.g. ``f03``; hair, beard and skin follow the number, the rest is random."""
    rng = generator(seed, speaker, "look")
    woman, place = speaker.startswith("f"), (int(speaker[1:]) - 1) % 6
    hair_style = (_WOMEN_STYLE if woman else _MEN_STYLE)[place]

    def around(middle: float, spread: float) -> float:
        return float(middle + spread * np.clip(rng.standard_normal(), -1.7, 1.7))

    return Look(
        skin=_SKINS[(_WOMEN_SKIN if woman else _MEN_SKIN)[place]],
        hair=_HAIRS[(_WOMEN_HAIR if woman else _MEN_HAIR)[place]],
        iris=_IRISES[int(rng.integers(len(_IRISES)))],
        shirt=_SHIRTS[(place + (0 if woman else 3)) % 6],
        hair_style=hair_style,
        beard="none" if woman else _BEARDS[place],
        glasses=(speaker in ("f04", "m04")),
        lashes=woman,
        freckles=place == 3,
        face_width=around(75 if woman else 79, 3.5),
        face_height=around(97 if woman else 101, 3.5),
        jaw=around(0.80 if woman else 0.95, 0.06),
        eye_gap=around(29.8, 1.5),
        eye_size=around(16.5 if woman else 15.5, 0.8),
        eye_height=around(-12, 2),
        brow_thickness=around(5.0 if woman else 7.0, 0.8),
        brow_height=around(20.5, 1.5),
        nose_length=around(31, 3),
        nose_width=around(11 if woman else 13, 1.6),
        mouth_width=around(29 if woman else 31, 2.0),
        mouth_height=around(51, 2.5),
        lip_thickness=around(5.6 if woman else 4.2, 0.8),
        resting_smile=around(0.0, 0.08),
        resting_brow=around(0.0, 0.08),
    )
