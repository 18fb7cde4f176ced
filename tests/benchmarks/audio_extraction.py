"""How fast sound becomes features: seconds of sound per second of one core.

    python tests/benchmarks/audio_extraction.py [--directory FOLDER] [--clips 60] [--repeats 3] [--out FILE.json]

One process with one thread reads every clip from its file and computes its features, facts of the file included;
the files are in the system's cache, as every clip is read once before. Each extractor goes through all clips
``repeats`` times, in turn with the others. The table gives the median over the repeats, by the processor's time,
which other programs disturb little, and by the clock. The clips are those below FOLDER: by default of RAVDESS
(RAVDESS_ROOT), else of the demo corpus. ``log_mel_48khz`` is log_mel of the first clips resampled to 48 kHz, as RAVDESS
is published. Exits with 1 when log_mel by the processor's time is below 300.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import soundfile
import torch

from vavl.config.files import write_json
from vavl.errors import InputError
from vavl.extractors.extracted import Extractor
from vavl.extractors.extractor import audio_extractor
from vavl.extractors.settings import AudioFeatureSettings, AudioSettings, FunctionalSettings, OpensmileSettings
from vavl.media.media_probe import sound_seconds
from vavl.media.sound import read_audio

PROMISE = 300.0
PUBLISHED_HZ = 48_000
MOST_RESAMPLED = 30
SETTINGS: Mapping[str, AudioSettings] = {
    "log_mel": AudioFeatureSettings(),
    "functionals": FunctionalSettings(),
    "egemaps_descriptors": OpensmileSettings(level="descriptors"),
    "egemaps_functionals": OpensmileSettings(),
    "compare_functionals": OpensmileSettings(feature_set="ComParE_2016"),
}


def main() -> int:
    """Measure, print, write JSON; return 1 if log_mel is too slow."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(os.environ.get("RAVDESS_ROOT", "runs/demo_corpus")))
    parser.add_argument("--clips", type=int, default=60, help="taken evenly from all of the directory")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=Path("runs/bench/audio_extraction.json"))
    words = parser.parse_args()
    torch.set_num_threads(1)
    clips = clips_below(words.folder, words.clips)
    extractors = {name: audio_extractor(settings) for name, settings in SETTINGS.items()}
    with tempfile.TemporaryDirectory() as folder:
        published = [resampled(path, Path(folder)) for path in clips[:MOST_RESAMPLED]]
        work = {name: (extract, clips) for name, extract in extractors.items()}
        work["log_mel_48khz"] = (extractors["log_mel"], published)
        speeds = measured(work, words.repeats)
    result = {
        "folder": str(words.folder), "clips": len(clips), "seconds_of_sound": total_seconds(clips),
        "repeats": words.repeats, "promise_log_mel": PROMISE, "speeds": speeds,
    }  # fmt: skip
    write_json(words.out, result)
    print(
        f"{len(clips)} clips of {words.folder}, {result['seconds_of_sound']:.0f} s of sound; times real time, one core"
    )
    print(f"{'':<22}{'processor':>10}{'clock':>10}{'ms a clip':>12}")
    for name, speed in speeds.items():
        print(f"{name:<22}{speed['processor']:>10.0f}{speed['clock']:>10.0f}{speed['ms_per_clip']:>12.2f}")
    print(words.out)
    return 0 if speeds["log_mel"]["processor"] >= PROMISE else 1


def clips_below(folder: Path, most: int) -> list[Path]:
    """Return sound files below a directory, evenly chosen.

    Raises:
        InputError: there are none.
    """
    found = sorted(path for path in folder.rglob("*") if path.suffix in {".flac", ".wav"})
    if not found:
        raise InputError(str(folder), "", "holds no .wav or .flac", "set RAVDESS_ROOT, or run make demo before")
    return found[:: max(1, len(found) // most)][:most]


def total_seconds(clips: Sequence[Path]) -> float:
    """Return the seconds of sound in the clips."""
    return sum(sound_seconds(path) or 0.0 for path in clips)


def resampled(path: Path, folder: Path) -> Path:
    """Write a clip at the rate at which its corpus was published."""
    copy = folder / f"{path.stem}.wav"
    soundfile.write(copy, read_audio(path, PUBLISHED_HZ), PUBLISHED_HZ, subtype="PCM_16")
    return copy


def measured(work: Mapping[str, tuple[Extractor, Sequence[Path]]], repeats: int) -> dict[str, dict[str, Any]]:
    """Return the speed of each extractor: median over the repeats, which go round all extractors."""
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in work}
    for repeat in range(-1, repeats):
        for name, (extract, clips) in work.items():
            # The first round fills caches and imports; it takes one clip of each extractor and does not count.
            seconds = timed(extract, clips[:1] if repeat < 0 else clips)
            if repeat >= 0:
                taken[name].append(seconds)
    speeds = {}
    for name, (_, clips) in work.items():
        sound = total_seconds(clips)
        processor, clock = (statistics.median(column) for column in zip(*taken[name], strict=True))
        speeds[name] = {
            "processor": sound / processor,
            "clock": sound / clock,
            "ms_per_clip": 1000 * processor / len(clips),
            "repeats": [{"processor_s": one, "clock_s": other} for one, other in taken[name]],
        }
    return speeds


def timed(extract: Extractor, clips: Sequence[Path]) -> tuple[float, float]:
    """Return the processor's and the clock's seconds that the clips take."""
    processor, clock = time.process_time(), time.perf_counter()
    for path in clips:
        extract(path)
    return time.process_time() - processor, time.perf_counter() - clock


if __name__ == "__main__":
    raise SystemExit(main())
