"""What a prediction of the registered model costs next to the network's own forward.

    python tests/benchmarks/inference.py [--seconds 3] [--out FILE.json]

One process with one thread makes models with random weights, of the sizes of the RAVDESS recipe, of the small preset
and of the paper, for log-mel and face features, serves them as the registry does and loads them by ``mlflow.pyfunc``.
For 1, 8 and 32 clips of 2 s (one of them also as lists, and of a single frame a modality, as statistics of a whole clip
are), three things take turns: the network's forward for the batch that the prediction makes; ``SavedModel.predict``,
with checks and normalization; and the whole ``loaded.predict(table)``, with MLflow's checks of the signature and
pandas. From media (one clip of 2 s, wav and mp4) the extraction is timed next to the whole. The table gives medians by
the processor's time, which other programs disturb little; the share is the forward's median in the whole's, by the
processor's time and by the clock. Then every clip of a batch is compared with itself alone.

Exits with 1 when the share by the processor's time is below one half for a single clip from ready features.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

sys.path.extend(str(path) for path in (Path(__file__).parents[1] / "support").iterdir())

import numpy as np
import pandas as pd
import torch
from rendered_media import moving_square, tone, write_mp4, write_wav
from served_models import served, write_model

from vavl.config.files import write_json
from vavl.extractors.extractor import audio_extractor, audio_info, video_extractor, video_info
from vavl.extractors.settings import AudioFeatureSettings, VideoFeatureSettings
from vavl.models.clips import ClipFeatures, batch_of
from vavl.models.settings import NetworkSettings

PROMISE = 0.5
CLIP_SECONDS = 2.0
AUDIO, VIDEO = AudioFeatureSettings(), VideoFeatureSettings()
SIZES: Mapping[str, NetworkSettings] = {
    "ravdess": NetworkSettings(preset="small", modality_blocks=1, convolution_kernel=1),
    "small": NetworkSettings(preset="small"),
    "paper": NetworkSettings(preset="paper"),
}
FRAMES = (round(CLIP_SECONDS * 1000 / AUDIO.hop_ms), round(CLIP_SECONDS * VIDEO.frame_rate_hz))
Work = Mapping[str, Callable[[], Any]]


def main() -> int:
    """Measure, print, write JSON; return 1 if too much of a single clip's time is not the forward's."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=3.0, help="of every row of the table")
    parser.add_argument("--out", type=Path, default=Path("runs/bench/inference.json"))
    words = parser.parse_args()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"promise": PROMISE, "clip_seconds": CLIP_SECONDS, "rows": [], "alone": {}}
    with tempfile.TemporaryDirectory() as folder:
        for name, sizes in SIZES.items():
            target = Path(folder) / name
            loaded = served(write_network(target / "best", sizes), target / "served")
            result["rows"] += [{"network": name, **row} for row in measured(loaded, target, words.seconds)]
            result["alone"][name] = difference_alone(loaded)
    write_json(words.out, result)
    print("\n".join(lines_of(result)))
    print(words.out)
    kept = all(row["share_processor"] >= PROMISE for row in result["rows"] if row["is_promised"])
    return 0 if kept else 1


def write_network(folder: Path, sizes: NetworkSettings) -> Path:
    """Write a model with random weights."""
    return write_model(
        folder, audio=audio_info(AUDIO), video=video_info(VIDEO), spread=0.02, network=sizes, max_frames=1500
    )


def measured(loaded: Any, folder: Path, seconds: float) -> list[dict[str, Any]]:
    """Return the rows of the table for one model."""
    rows = []
    for clips, frames, as_lists in (
        (1, FRAMES, False), (1, FRAMES, True), (1, (1, 1), False), (8, FRAMES, False), (32, FRAMES, False),
    ):  # fmt: skip
        work = from_features(loaded, clips, frames, as_lists)
        form = "lists" if as_lists else "arrays"
        found = {"clips": clips, "input": f"{form} of {frames[0]} + {frames[1]} frames", **timed(work, seconds)}
        rows.append({**found, "is_promised": clips == 1})
    work = from_media(loaded, folder)
    rows.append({"clips": 1, "input": "wav + mp4", **timed(work, seconds), "is_promised": False})
    return rows


def drawn(clips: int, frames: tuple[int, int]) -> list[ClipFeatures]:
    """Draw features as extractors give them."""
    generator = np.random.default_rng(0)
    shapes = [(frames[0], audio_info(AUDIO).width), (frames[1], video_info(VIDEO).width)]
    return [ClipFeatures(*(generator.normal(size=shape).astype(np.float32) for shape in shapes)) for _ in range(clips)]


def from_features(loaded: Any, clips: int, frames: tuple[int, int], as_lists: bool) -> Work:
    """Return the work on ready features by name."""
    model, drawn_clips = saved_model(loaded), drawn(clips, frames)
    sides = {"audio_features": [c.audio for c in drawn_clips], "video_features": [c.video for c in drawn_clips]}
    if as_lists:
        sides = {name: [values.tolist() for values in column] for name, column in sides.items()}
    table = pd.DataFrame(sides)
    return {
        "forward": forward_of(model, drawn_clips),
        "model": lambda: model.predict(drawn_clips),
        "whole": lambda: loaded.predict(table),
    }


def from_media(loaded: Any, folder: Path) -> Work:
    """Return the work on media files by name."""
    sound = write_wav(folder / "clip.wav", 0.5 * tone(300, CLIP_SECONDS))
    film = write_mp4(folder / "clip.mp4", moving_square(round(25 * CLIP_SECONDS), side=240))
    listen, look = audio_extractor(AUDIO), video_extractor(VIDEO)
    clip = ClipFeatures(listen(sound).values, look(film).values)
    table = pd.DataFrame({"audio_path": [str(sound)], "video_path": [str(film)]})
    return {
        "forward": forward_of(saved_model(loaded), [clip]),
        "extraction": lambda: (listen(sound), look(film)),
        "whole": lambda: loaded.predict(table),
    }


def saved_model(loaded: Any) -> Any:
    """Return the SavedModel behind a loaded MLflow model."""
    return loaded.unwrap_python_model()._predictor.model


def forward_of(model: Any, clips: Sequence[ClipFeatures]) -> Callable[[], None]:
    """Return the network's forward alone, for one batch of the clips."""
    parts = model.description
    batch = batch_of(clips, parts.audio.width, parts.video.width, parts.task.outputs)

    def forward() -> None:
        with torch.inference_mode():
            model.network(batch)

    return forward


def timed(work: Work, seconds: float, least: int = 5) -> dict[str, Any]:
    """Let the pieces take turns for some seconds; return their medians in ms and the forward's share."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for do in work.values():
        do()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(spent["whole"]) < least:
        for name, do in work.items():
            processor, clock = time.thread_time(), time.perf_counter()
            do()
            spent[name].append((time.thread_time() - processor, time.perf_counter() - clock))
    medians = {
        f"{name}_{kind}_ms": 1000 * statistics.median(times[place] for times in column)
        for name, column in spent.items()
        for place, kind in enumerate(("processor", "clock"))
    }
    shares = {
        f"share_{kind}": medians[f"forward_{kind}_ms"] / medians[f"whole_{kind}_ms"] for kind in ("processor", "clock")
    }
    return {**medians, **shares, "turns": len(spent["whole"])}


def difference_alone(loaded: Any, clips: int = 32) -> float:
    """Return by how much a probability differs at most between a clip alone and among others of any length."""
    generator = np.random.default_rng(1)
    some = [drawn(1, (int(generator.integers(1, 300)), int(generator.integers(1, 150))))[0] for _ in range(clips)]
    model = saved_model(loaded)
    alone = np.array([model.predict([clip])[0].values for clip in some])
    return float(np.abs(alone - np.array([one.values for one in model.predict(some)])).max())


def lines_of(result: Mapping[str, Any]) -> list[str]:
    """Describe the result."""
    columns = ("forward", "model", "extraction", "whole")
    lines = [
        "medians in ms of the processor, one thread; shares of the forward by the processor's time and by the clock",
        f"{'network':<9}{'clips':>5}  {'input':<28}"
        + "".join(f"{name:>11}" for name in (*columns, "processor", "clock")),
    ]
    for row in result["rows"]:
        times = (row.get(f"{name}_processor_ms") for name in columns)
        cells = [f"{'-' if value is None else f'{value:.2f}':>11}" for value in times]
        cells += [f"{100 * row[f'share_{kind}']:>10.0f}%" for kind in ("processor", "clock")]
        lines.append(f"{row['network']:<9}{row['clips']:>5}  {row['input']:<28}{''.join(cells)}")
    for name, difference in result["alone"].items():
        lines.append(f"{name}: a clip alone and among 31 others differ by {difference:.1e} of a probability")
    return lines


if __name__ == "__main__":
    raise SystemExit(main())
