"""What two ranks train with and without activation checkpointing, at every ZeRO stage.

Rank 0 leaves ``<folder>/found.safetensors`` with ``<precision>/<stage>/<plain or checkpointed>/<name>``: losses,
gradient norms and weights of a few steps, and how often a Conformer block ran.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from vavl.data.batch import ClipBatch, ModalityBatch
from vavl.models.conformer import ConformerBlock
from vavl.models.draws import DrawKey
from vavl.models.ladder import LadderVavl
from vavl.models.settings import LadderShape, NetworkSettings
from vavl.models.vavl import Vavl, VavlOutput
from vavl.objectives.moments import named_moments
from vavl.training.collectives import add_over_ranks, rank_and_world_size
from vavl.training.run import make_engine
from vavl.training.settings import TrainingSettings

RANKS, ROWS, MICRO_BATCHES, STEPS = 2, 3, 2, 2
CASES = (("fp32", 0), ("fp32", 1), ("fp32", 2), ("fp32", 3), ("bf16", 3))
# Lets stage 3 shard and release these small weights as it does large ones.
RELEASING = {
    "stage3_param_persistence_threshold": 0, "stage3_max_live_parameters": 0, "stage3_max_reuse_distance": 0,
}  # fmt: skip
FRAMES, AUDIO, VIDEO, CLASSES = 7, 6, 5, 3


def run_cases(folder: Path) -> None:
    """Train every case on this rank."""
    found: dict[str, Tensor] = {}
    for (precision, stage), way in itertools.product(CASES, ("plain", "checkpointed")):
        numbers = trained(precision, stage, is_checkpointed=way == "checkpointed")
        found |= named_moments(f"{precision}/{stage}/{way}", numbers)
    if rank_and_world_size()[0] == 0:
        save_file({name: value.contiguous() for name, value in found.items()}, folder / "found.safetensors")


def trained(precision: str, stage: int, *, is_checkpointed: bool) -> dict[str, Tensor]:
    """Take a few steps; return what they gave."""
    settings = TrainingSettings.model_validate({
        "workers": RANKS, "zero_stage": stage, "precision": precision,
        "deepspeed": {"zero_optimization": RELEASING if stage == 3 else {}},
    })  # fmt: skip
    engine = make_engine(network(is_checkpointed), settings, torch.device("cpu"), ROWS, MICRO_BATCHES)
    runs = []
    for module in engine.network.modules():
        if isinstance(module, ConformerBlock):
            module.register_forward_pre_hook(lambda *_: runs.append(1))
    losses, norms = [], []
    for step in range(STEPS):
        for batch in micro_batches(step):
            loss = loss_of(engine.forward(batch, DrawKey(0, step)))
            engine.backward(loss / (RANKS * MICRO_BATCHES))
            losses.append(loss.detach())
        norms.append(float(engine.step(1e-2)))
    told = {"losses": torch.stack(losses), "runs": torch.tensor(float(len(runs)))}
    agreed = {name: value.float() for name, value in add_over_ranks(told).items()}
    return {**agreed, "norms": torch.tensor(norms), **named_moments("weights", engine.full_weights())}


def network(is_checkpointed: bool) -> Vavl:
    """Return the same network for every case, with dropout, and a ladder whose clean pass has a gradient."""
    settings = NetworkSettings(
        width=16, modality_blocks=1, shared_blocks=1, attention_heads=2, convolution_kernel=3, head_widths=(8, 8),
        dropout=0.2, head_dropout=0.2, correlation_size=4,
    )  # fmt: skip
    torch.manual_seed(0)
    shape = LadderShape(detach_target=False)
    return LadderVavl(settings, AUDIO, VIDEO, CLASSES, shape, activation_checkpointing=is_checkpointed).train()


def micro_batches(step: int) -> Iterator[ClipBatch]:
    """Yield this rank's paired clips of a step."""
    rank, _ = rank_and_world_size()
    for micro in range(MICRO_BATCHES):
        slot = micro * RANKS + rank
        generator = torch.Generator().manual_seed(10 * step + slot)
        rows, ones = torch.arange(ROWS), torch.ones(ROWS)
        sides = (
            ModalityBatch(
                torch.randn(ROWS, FRAMES, width, generator=generator),
                torch.arange(FRAMES) < torch.tensor([[FRAMES], [4], [1]]),
                rows,
                ones,
            )
            for width in (AUDIO, VIDEO)
        )
        target = torch.nn.functional.one_hot(rows, CLASSES).float()
        yield ClipBatch(*sides, rows, target, ones, ones, ones, slot + RANKS * MICRO_BATCHES * rows)


def loss_of(output: VavlOutput) -> Tensor:
    """Return a loss that every weight has a part in."""
    values = [*output.audio, *output.video, output.fusion_logits, output.label_correlation]
    assert output.ladder is not None
    for trace in output.ladder:
        values += [one.float() - other.float() for one, other in zip(*trace, strict=True)]
    return torch.stack([value.float().square().mean() for value in values]).sum()
