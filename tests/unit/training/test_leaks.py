"""The leak canary: features that carry only speaker and sentence cannot tell the emotion.

The published code mixes the clips of a batch, and its batches come in file-name order, in which
neighbors share their label. Here a network trained and evaluated on such batches must score at
chance; a network with the published fault does not, which shows that the canary sings.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from numpy.typing import NDArray

from vavl.corpora.manifest import Manifest
from vavl.features import ModalityInfo
from vavl.metrics.names import CONDITIONS
from vavl.models.conformer import ConformerBlock
from vavl.store.shards import ClipFeatures, row_batch
from vavl.store.store_writer import StoreWriter
from vavl.training.evaluation import predict_split, score_split
from vavl.training.loop import train
from vavl.training.run import TrainingRun, prepare_run
from vavl.training.settings import TrainingPlan

CLASSES, SENTENCES, SPEAKERS, FRAMES = ("calm", "glad", "mad"), 4, 9, 5
PER_SPEAKER = len(CLASSES) * SENTENCES
WIDTHS = {"audio": 6, "video": 5}
COLUMNS = ("clip_id", "corpus", "speaker", "label", "split_0")


def write_canary(folder: Path) -> Path:
    """Write clips named speaker_emotion_sentence; 5 speakers train, 2 validate, 2 test.

    The last two sentences are spoken by the test speakers only, the first two by all others.
    """
    generator = np.random.default_rng(0)
    voices = {name: generator.normal(size=(SPEAKERS, width)) for name, width in WIDTHS.items()}
    words = {name: generator.normal(size=(2 * SENTENCES, FRAMES, width)) for name, width in WIDTHS.items()}
    rows: dict[str, list[ClipFeatures]] = {"audio": [], "video": []}
    table = []
    for speaker, emotion, number in product(range(SPEAKERS), CLASSES, range(SENTENCES)):
        split = "train" if speaker < 5 else "validation" if speaker < 7 else "test"
        sentence = number + (SENTENCES if split == "test" else 0)
        clip_id = f"s{speaker}_{emotion}_{sentence}"
        for name, clips in rows.items():
            values = (voices[name][speaker] + words[name][sentence]).astype(np.float32)
            clips.append(ClipFeatures(clip_id, f"s{speaker}", values, np.arange(FRAMES, dtype=np.float32)))
        values_of_row = (clip_id, "canary", f"s{speaker}", emotion, split)
        table.append(dict(zip(COLUMNS, values_of_row, strict=True)))
    writer = StoreWriter(folder, "canary", "0" * 16)
    for name, width in WIDTHS.items():
        info = ModalityInfo("synthetic", "1", {}, 10.0, width)
        writer.write_modality(name, info, [row_batch("canary", width, rows[name])])
    writer.finish({"clips": len(table)})
    metadata = {
        "corpus": "canary", "classes": CLASSES, "target": "drawn class", "protocol": "first speakers", "folds": [0],
        "clips": len(table), "card_hash": "0" * 16,
    }  # fmt: skip
    columns = [(name, pa.string()) for name in COLUMNS]
    schema = pa.schema(columns, metadata={b"vavl": json.dumps(metadata).encode()})
    Manifest(pa.Table.from_pylist(table, schema=schema)).write(folder)
    return folder


@dataclass(frozen=True)
class FileOrder:
    """Batches in the order of the file names, one speaker after the other."""

    rows: NDArray[np.int64]
    seed: int = 0

    def slots(self, step: int, slots: int) -> list[NDArray[np.int64]]:
        assert slots == 1
        return [self._batch(step)]

    def global_batches(self, first: int, end: int) -> Iterator[NDArray[np.int64]]:
        return map(self._batch, range(first, end))

    def _batch(self, step: int) -> NDArray[np.int64]:
        return np.take(self.rows, np.arange(step * PER_SPEAKER, (step + 1) * PER_SPEAKER), mode="wrap")


@pytest.fixture(scope="module")
def canary(tmp_path_factory) -> Path:
    return write_canary(tmp_path_factory.mktemp("canary"))


@pytest.fixture
def trained(canary, tmp_path, records):
    """Return a function that trains a network on the canary and gives its accuracies by split and condition."""

    def train_it(order: str) -> dict[str, float]:
        plan = TrainingPlan.model_validate(
            {
                "output_dir": tmp_path,
                "data": {"store": canary, "composition": {"batch_size": PER_SPEAKER}},
                "model": {
                    "width": 16, "modality_blocks": 1, "shared_blocks": 1, "attention_heads": 2,
                    "convolution_kernel": 7, "head_widths": [16, 16], "dropout": 0, "head_dropout": 0,
                },
                "training": {
                    "launcher": "in_process", "engine": "torch", "max_epochs": 20, "checkpoint_every_epochs": 99,
                    "optimizer": {"learning_rate": 1e-2, "final_share": 0.1},
                },
                "evaluation": {"batch_size": PER_SPEAKER},
            }
        )  # fmt: skip
        run = prepare_run(plan)
        if order == "file names":
            run = replace(run, loader=replace(run.loader, sampler=FileOrder(run.data.rows["train"])))
        train(run, run.start, records())
        return accuracies(run)

    return train_it


def accuracies(run: TrainingRun) -> dict[str, float]:
    """Score every split in file-name order: all clips are equally long, so each batch is one speaker."""
    run.engine.network.eval()
    scores: dict[str, float] = {}
    for split, rows in run.data.rows.items():
        predictions = predict_split(run.engine.forward, run.evaluation_data(), rows)
        scores |= score_split(split, predictions, run.data.task)
    return {
        f"{split}/{condition}": scores[f"{split}/{condition}/accuracy"]
        for split, condition in product(run.data.rows, CONDITIONS)
    }


def test_the_canary_is_what_it_says(canary):
    table = Manifest.read(canary).table.to_pandas()
    assert (table["clip_id"] == sorted(table["clip_id"])).all()
    splits = [table[table["split_0"] == name] for name in ("train", "validation", "test")]
    assert len({*splits[0]["speaker"]} & {*splits[2]["speaker"]}) == 0
    sentences = [set(split["clip_id"].str[-1]) for split in splits]
    assert not sentences[0] & sentences[2]
    for split in splits:
        assert (split.groupby("speaker")["label"].value_counts() == SENTENCES).all()


@pytest.mark.parametrize("order", ["file names", "sampler"])
def test_speaker_and_sentence_alone_score_at_chance(trained, order):
    """On held-out speakers and sentences, and on the very batches of training."""
    for name, accuracy in trained(order).items():
        assert accuracy == pytest.approx(1 / 3, abs=0.08), name


def test_a_network_that_mixes_the_clips_of_a_batch_gives_itself_away(trained, monkeypatch):
    """The published fault: attention and convolution run over the batch instead of over time."""
    over_time = ConformerBlock.forward

    def over_the_batch(self, frames, is_real, *_):
        # The keys are of the clips, which stand elsewhere here; this network has no dropout.
        turned = None if is_real is None else is_real.T
        return over_time(self, frames.transpose(0, 1), turned).transpose(0, 1)

    monkeypatch.setattr(ConformerBlock, "forward", over_the_batch)
    found = trained("file names")
    for split in ("train", "validation", "test"):
        assert found[f"{split}/audio_video"] > 0.6, found
