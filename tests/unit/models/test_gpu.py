"""What a GPU runs: few operators, and the numbers of the plain way. Kernels by tensor operations; see ``as_on_gpu``."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import numpy as np
import pytest
import torch
from as_on_gpu import as_on_gpu, combine
from training_load import Size, batch_of

from vavl.data.batch import WeakView
from vavl.models import gpu
from vavl.models import ladder as ladder_module
from vavl.models.draws import DrawKey, Dropout, keys_of_rows
from vavl.models.ladder import LadderVavl, normal_numbers
from vavl.models.settings import ClassTask, LadderShape, NetworkSettings
from vavl.models.vavl import Vavl
from vavl.objectives.pseudo_label import LabelStatistics, combine_conditions, pseudo_target
from vavl.objectives.settings import HgrSettings, LadderSettings, ObjectiveSettings, PseudoLabelSettings
from vavl.objectives.total import Objective

KEY, CLIPS = DrawKey(3, 5), "av a v av? a?"
TINY = Size({}, {"audio": 12, "video": 8}, batch_size=4)


def passes(network, batch, low: bool = False) -> list[torch.Tensor]:
    """Return every output and every gradient of a training pass."""
    with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
        output = network(batch, KEY)
    layers = [] if output.ladder is None else [*output.ladder.audio.estimate, *output.ladder.video.estimate]
    found = [*output.audio, *output.video, output.fusion_logits, *layers]
    sum(one.float().square().mean() for one in found).backward()
    return [*found, *(one.grad for one in network.parameters() if one.grad is not None)]


@pytest.mark.parametrize(("low", "most"), [(False, 900), (True, 1000)], ids=["fp32", "bf16"])
def test_operators_of_a_training_pass_at_paper_depth(low, most):
    """Dropout and reconstruction on, clips of one length; it was 4,500. On a GPU autocast adds casts around norms."""
    torch.manual_seed(0)
    # Wider than the 16 channels at which oneDNN may go on without end; see ``cpu._FEW_CHANNELS``.
    network = Vavl(NetworkSettings(width=32, head_widths=(16, 16), attention_heads=2), 12, 8, 3).train()
    network.weights_side_by_side = True
    batch = batch_of(TINY, np.arange(4))
    with as_on_gpu() as operators:
        with torch.autocast("cpu", torch.bfloat16) if low else nullcontext():
            output = network(batch, KEY)
        parts = [one for side in (output.audio, output.video) for one in (side.logits, side.reconstruction)]
        torch.stack([one.float().sum() for one in (*parts, output.fusion_logits)]).sum().backward()
    assert 500 < operators.by_name.total() <= most
    assert operators.by_name["drop"] == 2 * (40 + 5)
    assert operators.by_name["swish_drop"] == operators.by_name["rotate"] * 2 == 2 * 20


def test_operators_of_a_micro_batch_with_ladder_hgr_and_pseudo_labels():
    """All that a training step does with a micro-batch at paper depth; it was 3.5 times a plain training pass."""
    torch.manual_seed(0)
    settings = NetworkSettings(width=16, head_widths=(16, 16), attention_heads=2)
    network, task = LadderVavl(settings, 12, 8, 3, LadderShape()).train(), ClassTask(classes=("calm", "glad", "mad"))
    network.weights_side_by_side = True
    chosen = ObjectiveSettings(hgr=HgrSettings(), ladder=LadderSettings(), pseudo_label=PseudoLabelSettings())
    objective = Objective(task, chosen, (1.0,) * settings.ladder_layers, 1, rows=4)
    batch, labels = batch_of(TINY, np.arange(4)), LabelStatistics(torch.full((3,), 1 / 3), torch.ones(3))
    view = WeakView(batch_of(TINY, np.arange(2)), torch.tensor([1, 3]))
    batch = replace(batch, weak=view, is_labelled=torch.tensor([1.0, 0, 1, 0]))
    with as_on_gpu() as operators:
        output = network(batch, KEY)
        teacher = combine_conditions(output.weak, batch.weak, batch.clips, task, chosen.pseudo_label)
        local = objective.moments(output, batch, teacher)
        together = {name: value.detach() for name, value in local.items()}
        pseudo = pseudo_target(teacher, task, chosen.pseudo_label, labels, labels.mean)
        parts = objective.parts(output, batch, local, together, pseudo)
        torch.stack(list(objective.weighted(parts, 0).values())).sum().backward()
    assert len(parts) == 3 + 2 + 3 + 2 + 3
    assert operators.by_name["combine"] == 2 * 2 * settings.ladder_layers
    assert operators.by_name["noise"] == 2
    assert 1000 < operators.by_name.total() <= 1700


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("padded", [False, True])
def test_in_fp32_the_branches_of_a_gpu_give_the_same(tiny_network, batches, padded, checkpointing, monkeypatch):
    """Also with weights side by side, whose gradients come in one piece."""
    monkeypatch.setattr(ladder_module, "_draws_by_generators", lambda _: False)  # the noise of a GPU
    clips = batches.clips(CLIPS) if padded else batches.clips("av")
    batch, found = batches.of(clips), []
    assert batch.audio.is_padded is padded
    for on_gpu in (False, True):
        network = tiny_network(
            ladder=LadderShape(lateral="both"), dropout=0.3, head_dropout=0.3, input_dropout=0.2, modality_blocks=2
        ).train()
        network.weights_side_by_side = on_gpu
        for blocks in (network.audio_path.blocks, network.video_path.blocks, network.shared.blocks):
            blocks.activation_checkpointing = checkpointing
        with as_on_gpu() if on_gpu else nullcontext():
            found.append(passes(network, batch))
    assert len(found[0]) > 60
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


def test_in_bf16_they_are_as_near_to_fp32_as_the_plain_way(tiny_network, batches):
    """Norm over norm over all outputs and gradients: at most 1.3 times as far."""
    batch, far = batches.of(batches.clips(CLIPS)), []
    ways = {"exact": nullcontext, "plain": nullcontext, "gpu": as_on_gpu}
    found = {}
    for name, way in ways.items():
        network = tiny_network(dropout=0.3).train()
        network.weights_side_by_side = name == "gpu"
        with way():
            found[name] = torch.cat([one.detach().float().flatten() for one in passes(network, batch, name != "exact")])
    far = [float((found[name] - found["exact"]).norm() / found["exact"].norm()) for name in ("plain", "gpu")]
    assert 0 < far[1] < 1.3 * far[0]


def test_weights_lie_side_by_side_only_within_a_pass(tiny_network, batches):
    network = tiny_network()
    network.weights_side_by_side, names = True, [name for name, _ in network.named_parameters()]
    before = [dict(vars(module)) for module in network.modules()]
    network(batches.of(batches.clips(CLIPS)))
    assert [dict(vars(module)) for module in network.modules()] == before
    assert [name for name, _ in network.named_parameters()] == names
    with pytest.raises(AttributeError):
        network(None)
    assert [dict(vars(module)) for module in network.modules()] == before


def test_a_cpu_takes_none_of_it():
    assert not gpu.is_usable(torch.ones(1))


class TestTriton:
    """The kernels themselves, by Triton's interpreter; the environment variable is read when they are imported."""

    @pytest.fixture(autouse=True, scope="class")
    def kernels(self):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("TRITON_INTERPRET", "1")
            pytest.importorskip("triton", reason="comes with torch for CUDA, and in the extra dev")
            from vavl.models import triton_kernels

            yield triton_kernels

    @pytest.fixture(params=[torch.float32, torch.bfloat16, torch.float16], ids=str)
    def values(self, request):
        return torch.randn(3, 7, 155, generator=torch.Generator().manual_seed(0)).to(request.param)

    rows = keys_of_rows(KEY, torch.arange(3), 0)

    @pytest.mark.parametrize("probability", [0.02, 0.1, 0.5, 0.75])
    @pytest.mark.parametrize("stream", [0, 1, 63])
    def test_dropout_is_that_of_a_cpu_to_the_last_bit(self, kernels, values, probability, stream):
        dropout = Dropout(probability)
        dropout.stream = stream
        found = kernels.drop(values, self.rows, dropout.draw(self.rows))
        assert found.dtype == values.dtype
        expected = dropout(values, self.rows)
        assert torch.equal(found == 0, expected == 0)
        # Triton's interpreter cuts bits off where a GPU rounds to the nearest bf16.
        bound = 2**-7 if values.dtype == torch.bfloat16 else 0
        torch.testing.assert_close(found, expected, rtol=bound, atol=0)

    def test_a_sum_is_rounded_once_in_the_wider_type(self, kernels, values):
        dropout, frames = Dropout(0.3), torch.randn(3, 7, 155)
        found = kernels.drop(values, self.rows, dropout.draw(self.rows, 0.5), residual=frames)
        assert found.dtype == torch.float32
        torch.testing.assert_close(found, dropout(values, self.rows, frames, 0.5), rtol=1e-6, atol=1e-6)

    def test_swish_and_its_gradient(self, kernels, values):
        dropout, above = Dropout(0.3), torch.randn(3, 7, 155).to(values.dtype)
        draw, given = dropout.draw(self.rows), values.float().requires_grad_()
        expected = dropout(torch.nn.functional.silu(given), self.rows)
        expected.backward(above.float())
        found = kernels.drop(values, self.rows, draw, swish=True)
        gradient = kernels.drop(values, self.rows, draw, grad=above, swish=True)
        bound = {"rtol": 1e-6, "atol": 1e-6} if values.dtype == torch.float32 else {"rtol": 1e-2, "atol": 1e-3}
        torch.testing.assert_close(found.float(), expected, **bound)
        torch.testing.assert_close(gradient.float(), given.grad, **bound)
        assert torch.equal(found == 0, expected == 0)

    @pytest.mark.parametrize("channels", [1, 5, 300])
    def test_noise_is_that_of_a_cpu(self, kernels, channels):
        is_real = torch.arange(7) < torch.tensor([[7], [1], [4]])
        expected = normal_numbers(self.rows, is_real, channels, 2**20)
        torch.testing.assert_close(kernels.noise(self.rows, is_real, channels, 2**20), expected, rtol=1e-5, atol=1e-6)
        assert not expected[1, 1:].any()

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize(("width", "frames"), [(70, 9), (16, 1), (3, 40)])
    @pytest.mark.parametrize("is_broadcast", [False, True])
    def test_the_combinator_and_its_gradients(self, kernels, dtype, width, frames, is_broadcast):
        generator = torch.Generator().manual_seed(0)
        lateral, above = torch.randn(2, 3, frames, width, generator=generator).to(dtype)
        vertical = torch.randn(3, 1 if is_broadcast else frames, width, generator=generator)
        weights = torch.randn(9, width, generator=generator).split((4, 4, 1))
        weights = (weights[0], weights[1], weights[2][0])
        found = kernels.combine(lateral, vertical, weights)[0]
        gradients = kernels.combine(lateral, vertical, weights, above)
        as_given = (lateral.float(), vertical, weights)
        bound = {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}
        torch.testing.assert_close(found.float(), combine(*as_given, None)[0], **bound)
        expected = combine(*as_given, above.float())
        assert (found.dtype, gradients[0].dtype) == (dtype, dtype)
        for one, other in zip((*gradients[:2], gradients[2].sum(0, keepdim=True)), expected, strict=True):
            torch.testing.assert_close(one.float(), other, **bound)

    @pytest.mark.parametrize("heads", [1, 3])
    def test_rotation_is_that_of_a_cpu(self, kernels, heads):
        from as_on_gpu import rotate

        from vavl.models.conformer import rotary_angles

        qkv = torch.randn(2, 9, 3, heads, 10, generator=torch.Generator().manual_seed(0))
        angles = rotary_angles(9, 10, qkv.device)
        for sign in (1, -1):
            assert torch.equal(kernels.rotate(qkv, *angles, sign), rotate(qkv, *angles, sign))
