"""How hard the demo corpus is: logistic regression on its latents and on the features in its store.

    python tests/benchmarks/demo_probe.py [--store runs/stores/demo] [--corpus runs/demo_corpus] [--out FILE.json]

The generator's difficulty is tuned with this probe and with nothing else. Each modality enters as the mean and
the standard deviation over time of each channel; the regularisation is chosen on the validation speakers, the
model is fitted on the training speakers, and the accuracy is that on the test speakers. Next to the corpus
card's own split the probe takes two more groups of four speakers as test, because 144 clips of four speakers
give an accuracy no better than about 4 points.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from demo_corpus.settings import EMOTIONS
from vavl.config.files import read_json, write_json
from vavl.corpora.manifest import TEST, TRAIN, VALIDATION, Manifest
from vavl.store.store import FeatureStore

Array = NDArray[np.float64]
Masks = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]
_STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 1.0)


def main() -> None:
    """Probe, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--store", type=Path, default=Path("runs/stores/demo"))
    parser.add_argument("--corpus", type=Path, default=Path("runs/demo_corpus"))
    parser.add_argument("--out", type=Path, default=Path("runs/bench/demo_probe.json"))
    words = parser.parse_args()
    manifest = Manifest.read(words.store)
    labels = manifest.class_index().astype(int)
    result: dict[str, Any] = {
        "settings_hash": read_json(words.corpus / "corpus.json")["settings_hash"],
        "store_hash": FeatureStore.open(words.store).hash,
        "test_clips": int((manifest.split(0) == TEST).sum()),
    }
    inputs = {
        "latents": latents_of(words.corpus / "latents.csv", manifest),
        "features": features_of(words.store, manifest),
    }
    print(f"{'':<10}{'':<14}{'card split':>11}{'mean of 3':>11}")
    for kind, by_condition in inputs.items():
        for condition, values in by_condition.items():
            accuracies = [accuracy(values, labels, masks) for masks in splits_of(manifest)]
            result[f"{kind}/{condition}"] = {
                "card_split": accuracies[0],
                "mean_of_three_splits": float(np.mean(accuracies)),
                "splits": accuracies,
            }
            print(f"{kind:<10}{condition:<14}{100 * accuracies[0]:>11.1f}{100 * np.mean(accuracies):>11.1f}")
    write_json(words.out, result)
    print(f"chance {100 / len(EMOTIONS):.1f}; {result['test_clips']} test clips on the card's split; {words.out}")


def latents_of(path: Path, manifest: Manifest) -> dict[str, Array]:
    """Return what each modality knows of the emotion, a row per clip of the manifest."""
    with path.open(encoding="utf-8", newline="") as stream:
        rows = {row["clip_id"]: row for row in csv.DictReader(stream)}
    ordered = [rows[clip_id] for clip_id in manifest.table["clip_id"].to_pylist()]
    tempo = np.log([[float(row["tempo"])] for row in ordered])
    voice, face = (
        np.array([[float(row[f"{view}_{emotion}"]) for emotion in EMOTIONS] for row in ordered])
        for view in ("voice", "face")
    )
    return {
        "audio_video": np.hstack([voice, face, tempo]),
        "audio": np.hstack([voice, tempo]),
        "video": np.hstack([face, tempo]),
    }


def features_of(folder: Path, manifest: Manifest) -> dict[str, Array]:
    """Return mean and standard deviation over time of each modality's features, a row per clip."""
    store = FeatureStore.open(folder)
    audio, video = (
        np.array(
            [
                np.concatenate([frames.mean(axis=0), frames.std(axis=0)])
                for row in store.rows(modality, manifest.table["clip_id"])
                for frames in [store.features(modality, int(row)).astype(np.float64)]
            ]
        )
        for modality in ("audio", "video")
    )
    return {"audio_video": np.hstack([audio, video]), "audio": audio, "video": video}


def splits_of(manifest: Manifest) -> Iterator[Masks]:
    """Yield training, validation and test masks: the card's, then two with other test speakers."""
    split = manifest.split(0)
    yield split == TRAIN, split == VALIDATION, split == TEST
    codes, names = manifest.speaker_codes()
    tested = {names[code] for code in np.unique(codes[split == TEST])}
    women = [name for name in names if name.startswith("f") and name not in tested]
    men = [name for name in names if name.startswith("m") and name not in tested]
    for group in ([*women[:2], *men[:2]], [*women[2:4], *men[2:4]]):
        rest = [name for name in names if name not in group]
        held_out = [rest[0], next(name for name in rest if name.startswith("m"))]
        test, validation = (np.isin(np.array(names)[codes], chosen) for chosen in (group, held_out))
        yield ~test & ~validation, validation, test


def accuracy(values: Array, labels: NDArray[Any], masks: Masks) -> float:
    """Fit on the training clips, choose the regularisation on validation, return the test accuracy."""
    train, validation, test = masks

    def model_of(strength: float) -> Any:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=strength, max_iter=2000))
        return model.fit(values[train], labels[train])

    models = [model_of(strength) for strength in _STRENGTHS]
    best = max(models, key=lambda model: model.score(values[validation], labels[validation]))
    return float(best.score(values[test], labels[test]))


if __name__ == "__main__":
    main()
