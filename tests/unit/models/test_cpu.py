"""What a CPU does otherwise: the same numbers, less memory, and modules are called, replaced and compiled as ever."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from as_on_gpu import Operators
from torch import nn
from torch.nn import functional

from vavl.models import cpu
from vavl.models.conformer import (
    ConformerBlock,
    DepthwiseConvolution,
    FeedForward,
    attend,
    attended,
    frames_of,
    number_streams,
)
from vavl.models.cpu import Linear, depthwise, onednn_is_quicker, use_onednn
from vavl.models.draws import DrawKey, keys_of_rows
from vavl.models.settings import LadderShape

CLIPS, FRAMES, WIDTH = 5, 9, 16
LENGTHS = (9, 4, 1, 7, 9)
HEADS, HEAD_WIDTH = 3, 16
KEY, CLIPS_OF_A_BATCH = DrawKey(3, 5), "av a v av? a?"


@pytest.fixture
def block(tiny_settings):
    torch.manual_seed(0)
    block = ConformerBlock(tiny_settings(dropout=0.3, convolution_kernel=5)).train()
    number_streams(block)
    return block


@pytest.fixture
def keep_everything(monkeypatch):
    """Return a function after which nothing is computed again."""
    return lambda: monkeypatch.setattr(cpu, "checkpoint", lambda function, *arguments, **_: function(*arguments))


def everything(network, batch, key=None) -> list[torch.Tensor]:
    output = network(batch, key)
    layers = [] if output.ladder is None else [*output.ladder.audio.estimate, *output.ladder.video.estimate]
    return [*output.audio, *output.video, output.fusion_logits, output.label_correlation, *layers]


class TestComputedAgain:
    """In the backward pass, instead of being kept."""

    def training_pass(self, block, dtype: torch.dtype, *, dropped: bool = True) -> list[torch.Tensor]:
        """Return what a block gives, and the gradients of its input and of every weight."""
        generator = torch.Generator().manual_seed(2)
        frames, above = torch.randn(2, CLIPS, FRAMES, WIDTH, generator=generator)
        frames.requires_grad_()
        is_real = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(1)
        rows = keys_of_rows(DrawKey(1, 2), torch.arange(CLIPS), 0) if dropped else None
        block.zero_grad()
        with torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext():
            result = block(frames, is_real, rows)
        # What lies in the padding is undefined.
        result.backward(above * is_real.unsqueeze(-1))
        return [result.detach() * is_real.unsqueeze(-1), frames.grad, *(one.grad for one in block.parameters())]

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("dropped", [False, True])
    def test_it_is_what_was_not_kept_to_the_last_bit(self, block, dtype, dropped, keep_everything):
        found = self.training_pass(block, dtype, dropped=dropped)
        keep_everything()
        wanted = self.training_pass(block, dtype, dropped=dropped)
        assert len(found) == 2 + len(list(block.parameters()))
        assert all(torch.equal(one, other) for one, other in zip(found, wanted, strict=True))

    def test_no_product_is_computed_twice(self, block, keep_everything):
        counts = []
        for change in (lambda: None, keep_everything):
            change()
            with Operators() as operators:
                self.training_pass(block, torch.float32)
            counts.append(operators.by_name)
        assert counts[0]["mm"] == counts[1]["mm"] > 0
        assert counts[0]["addmm"] == counts[1]["addmm"] == 8
        assert counts[0]["native_layer_norm"] == counts[1]["native_layer_norm"] + 5

    def test_a_block_keeps_little_more_than_half(self, tiny_settings, keep_everything):
        block = ConformerBlock(tiny_settings(dropout=0.3)).train()
        frames = torch.randn(64, FRAMES, WIDTH)
        is_real, rows = torch.ones(64, FRAMES, dtype=torch.bool), keys_of_rows(DrawKey(0, 0), torch.arange(64), 0)
        little = saved_bytes(lambda: block(frames, is_real, rows))
        keep_everything()
        assert little < 0.6 * saved_bytes(lambda: block(frames, is_real, rows))


def saved_bytes(work) -> int:
    """Return the bytes of the storages that autograd keeps."""
    kept: dict[int, int] = {}

    def pack(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        result = work()
    assert result.requires_grad
    return sum(kept.values())


class Doubled(nn.Module):
    """What LoRA and its like put in the place of a layer: the layer, and something of their own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values):
        return 2 * self.layer(values)


class TestModules:
    """They are called, and may be looked at, replaced and compiled."""

    def test_a_hook_on_any_module_is_called(self, tiny_network, batches):
        network, ran, every = tiny_network(ladder=LadderShape(lateral="both")).train(), set(), set()
        for name, module in network.named_modules():
            if type(module) not in (nn.ModuleList, nn.ModuleDict):
                every.add(name)
                module.register_forward_hook(lambda *_, name=name: ran.add(name))
        network(batches.of(batches.clips(CLIPS_OF_A_BATCH)), KEY)
        assert len(every) > 60
        assert ran == every

    @pytest.mark.parametrize(("register", "calls"), [("forward_pre_hook", 2), ("full_backward_hook", 1)])
    def test_other_hooks_are_called_as_well(self, block, register, calls):
        """One before the forward pass a second time, as with all activation checkpointing."""
        seen = []
        handle = getattr(block.attention.query_key_value, f"register_{register}")(lambda *_: seen.append(1))
        frames = torch.randn(CLIPS, FRAMES, WIDTH, requires_grad=True)
        is_real = torch.ones(CLIPS, FRAMES, dtype=torch.bool)
        block(frames, is_real).sum().backward()
        assert len(seen) == calls
        handle.remove()
        block(frames, is_real).sum().backward()
        assert len(seen) == calls

    @torch.no_grad()
    def test_a_linear_layer_that_is_replaced_counts(self, tiny_network, batches):
        batch, network = batches.of(batches.clips("av av")), tiny_network()
        before = torch.cat([value.flatten() for value in everything(network, batch)])
        names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
        assert len(names) > 20
        for name in names:
            changed = copy.deepcopy(network)
            changed.set_submodule(name, Doubled(changed.get_submodule(name)))
            after = torch.cat([value.flatten() for value in everything(changed, batch)])
            assert (after - before).abs().max() > 1e-4, name

    @torch.no_grad()
    def test_another_activation_counts(self, tiny_settings):
        layers, frames = FeedForward(tiny_settings()), torch.randn(CLIPS, FRAMES, WIDTH)
        before = layers(frames)
        layers[2] = nn.GELU()
        assert (layers(frames) - before).abs().max() > 1e-4

    @torch.no_grad()
    def test_a_compiled_network_is_the_same(self, tiny_network, batches):
        batch, network = batches.of(batches.clips(CLIPS_OF_A_BATCH)), tiny_network()
        expected = everything(network, batch)
        compiled = torch.compile(network, backend="eager", fullgraph=False)
        for one, other in zip(everything(compiled, batch), expected, strict=True):
            torch.testing.assert_close(one, other)
        torch.compiler.reset()

    @torch.no_grad()
    @pytest.mark.filterwarnings("ignore:torch.(ao.quantization|quantize_per_tensor).* deprecated")
    def test_linear_layers_can_be_quantized(self, tiny_network, batches):
        batch, network = batches.of(batches.clips(CLIPS_OF_A_BATCH)), tiny_network()
        small = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
        assert type(small.audio_path.blocks[0].attention.query_key_value) is not nn.Linear
        logits, exact = small(batch).fusion_logits, network(batch).fusion_logits
        assert not torch.equal(logits, exact)
        assert (logits - exact).norm() / exact.norm() < 0.2


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_the_network_is_that_of_another_device(tiny_network, batches, key, monkeypatch):
    """Every output and every gradient, with dropout, noise and ladder."""
    batch, found = batches.of(batches.clips(CLIPS_OF_A_BATCH)), []
    network = tiny_network(ladder=LadderShape(lateral="both"), dropout=0.3, head_dropout=0.3, input_dropout=0.2)
    network.train(key is not None)
    for is_usable in (cpu.is_usable, lambda _: False):
        monkeypatch.setattr(cpu, "is_usable", is_usable)
        network.zero_grad()
        outputs = everything(network, batch, key)
        sum(output.square().mean() for output in outputs).backward()
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        found.append([*outputs, *gradients])
    assert len(found[0]) > 40
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-6)


class TestOneDnn:
    """Linear layers in float32."""

    @pytest.fixture(autouse=True)
    def _every_size(self, monkeypatch):
        if not torch.backends.mkldnn.is_available():
            pytest.skip("this torch has no oneDNN")
        monkeypatch.setattr(cpu, "_LEAST_PRODUCTS", 1)

    @pytest.mark.parametrize("frozen", [None, "values", "weight", "bias"])
    def test_a_layer_is_that_of_torch(self, frozen):
        torch.manual_seed(0)
        values, found = torch.randn(3, 2, 6), []
        for kind in (Linear, nn.Linear):
            layer, given = kind(6, 4), values.clone()
            layer.load_state_dict({"weight": torch.arange(24.0).view(4, 6) / 24, "bias": torch.arange(4.0)})
            tensors = {"values": given, "weight": layer.weight, "bias": layer.bias}
            for name, one in tensors.items():
                one.requires_grad_(name != frozen)
            result = layer(given)
            result.square().sum().backward()
            found.append([result, *(one.grad for one in tensors.values())])
        for one, other in zip(*found, strict=True):
            assert (one is None) == (other is None)
            torch.testing.assert_close(one, other)
        assert (frozen is None) == all(one is not None for one in found[0])

    def test_it_takes_rows_without_time_and_batches_without_clips_or_frames(self, monkeypatch):
        monkeypatch.setattr(cpu, "_LEAST_PRODUCTS", 2**20)
        layer = Linear(6, 4)
        for shape in ((3, 6), (0, 6), (2, 0, 6)):
            values = torch.randn(shape, requires_grad=True)
            found = layer(values)
            torch.testing.assert_close(found, functional.linear(values, layer.weight, layer.bias))
            found.sum().backward()
            assert values.grad.shape == shape

    def test_no_product_is_computed_twice(self):
        norm, layer, frames = nn.LayerNorm(6), Linear(6, 4), torch.randn(3, 2, 6, requires_grad=True)
        with Operators() as operators:
            cpu.recomputed(lambda values: layer(norm(values)), frames).sum().backward()
        assert operators.by_name["_linear_pointwise"] == 3
        assert operators.by_name["native_layer_norm"] == 2

    def test_a_network_has_such_layers_where_it_is_quicker_and_torchs_own_elsewhere(self, tiny_network, monkeypatch):
        network = tiny_network()
        names = [type(module).__name__ for module in network.modules()]
        for quicker, kinds in ((False, {nn.Linear}), (True, {Linear})):
            monkeypatch.setattr(cpu, "onednn_is_quicker", lambda quicker=quicker: quicker)
            use_onednn(network)
            assert {type(one) for one in network.modules() if type(one) in (nn.Linear, Linear)} == kinds
        use_onednn(network, on=False)
        assert [type(module).__name__ for module in network.modules()] == names
        assert all(type(module) is not Linear for module in network.modules())

    def test_without_the_private_operator_torch_multiplies(self, monkeypatch):
        class Nothing:
            """The operators of a build of torch that lacks it."""

        for name in ("mkl", "mkldnn"):
            monkeypatch.setattr(getattr(torch.backends, name), "is_available", lambda: True)
        monkeypatch.setattr(torch.ops, "mkldnn", Nothing())
        assert not onednn_is_quicker.__wrapped__()


class TestAttention:
    def run(self, way, frames: int, dtype: torch.dtype, padding: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what clips of some lengths give, and the gradient of query, key and value of each frame."""
        generator = torch.Generator().manual_seed(frames)
        qkv = torch.randn(CLIPS, frames, 3 * HEADS * HEAD_WIDTH, generator=generator).bfloat16().to(dtype)
        is_real = torch.arange(frames) < torch.tensor([frames, 1, 2, frames // 2 + 1, frames]).unsqueeze(1)
        qkv = torch.where(is_real[..., None], qkv, qkv * padding).requires_grad_()
        above = torch.randn(CLIPS, frames, HEADS * HEAD_WIDTH, generator=generator).bfloat16().to(dtype)
        mixed = way(qkv, HEADS, frames_of(qkv, HEAD_WIDTH, is_real))
        mixed.backward(above * is_real[..., None])
        assert not qkv.grad[~is_real].any()
        assert qkv.grad[is_real].abs().sum() > 1
        return mixed.detach(), qkv.grad.double().view(CLIPS, frames, 3, -1).permute(2, 0, 1, 3)

    def exactly(self, qkv, heads, about):
        return attended(functional.scaled_dot_product_attention, qkv, heads, about)

    @pytest.mark.parametrize("frames", [2, 7, 75, 125])
    @pytest.mark.parametrize("at_once", [1, 10**9])
    def test_in_bf16_plain_products_are_as_near_to_float64_as_the_fused_kernel(self, frames, at_once, monkeypatch):
        """Within 0.4 % forward and 1 % of the gradients (norm over norm); the fused kernel: 0.2 and 0.3 to 0.65 %."""
        monkeypatch.setattr(cpu, "_BYTES_AT_ONCE", at_once)
        exact, found = self.run(self.exactly, frames, torch.float64), self.run(attend, frames, torch.bfloat16)
        assert (found[0] - exact[0]).norm() / exact[0].norm() < 0.004
        for part in range(3):
            error = (found[1][part] - exact[1][part]).norm() / exact[1][part].norm()
            assert error < 0.01, part

    def test_they_are_used_in_bf16_for_clips_that_are_not_too_long(self, monkeypatch):
        monkeypatch.setattr(cpu, "_MOST_FRAMES", 8)
        asked = []
        monkeypatch.setattr(cpu, "attend_by_products", lambda *given: asked.append(1) or given[0])
        for frames, dtype in ((8, torch.bfloat16), (9, torch.bfloat16), (8, torch.float32)):
            qkv = torch.randn(CLIPS, frames, 3 * HEADS * HEAD_WIDTH).to(dtype)
            attend(qkv, HEADS, frames_of(qkv, HEAD_WIDTH, None))
            assert asked == [1]

    def test_a_frame_of_padding_with_large_values_changes_nothing_in_bf16(self):
        first, other = (self.run(attend, 9, torch.bfloat16, padding) for padding in (1.0, 1e4))
        assert torch.equal(first[0][[0, 4]], other[0][[0, 4]])  # without padding
        for clip, length in ((1, 1), (2, 2), (3, 5)):
            assert torch.equal(first[0][clip, :length], other[0][clip, :length])
        assert torch.equal(first[1], other[1])


class TestConvolution:
    """Over time, channel by channel."""

    def gradients_of(self, convolve, layer, image: torch.Tensor) -> list[torch.Tensor]:
        """Return the result, and the gradients of the image and of kernel and bias."""
        layer.zero_grad()
        image = image.clone().requires_grad_()
        result = convolve(image, layer.weight, layer.bias)
        result.square().sum().backward()
        return [result.detach(), image.grad, *(parameter.grad.clone() for parameter in layer.parameters())]

    def generally(self, image, weight, bias):
        return functional.conv2d(image, weight, bias, padding=(0, weight.shape[-1] // 2), groups=image.shape[1])

    def test_a_single_frame_is_convolved_as_by_the_general_way(self):
        """In value and in the gradient of the kernel, the bias and the input."""
        torch.manual_seed(0)
        layer, image = DepthwiseConvolution(6, 5), torch.randn(4, 6, 1, 1)
        found, wanted = (self.gradients_of(way, layer, image) for way in (depthwise, self.generally))
        for one, other in zip(found, wanted, strict=True):
            torch.testing.assert_close(one, other)

    @pytest.mark.parametrize("frames", [2, 3, 40, 130])
    @pytest.mark.parametrize("at_once", [1, 7, 64])
    def test_in_bf16_it_is_as_near_to_float64_as_the_general_way(self, frames, at_once, monkeypatch):
        """Result and every gradient within 1 % (norm over norm); the general way has 0.2 to 0.7 %."""
        monkeypatch.setattr(cpu, "_FRAMES_AT_ONCE", at_once)
        torch.manual_seed(0)
        layer = DepthwiseConvolution(6, 5).bfloat16()
        # Channels last, as the Conformer hands it over.
        image = torch.randn(3, frames, 6).bfloat16().unsqueeze(1).permute(0, 3, 1, 2)
        found = self.gradients_of(depthwise, layer, image)
        for one, expected in zip(found, self.gradients_of(self.generally, layer.double(), image.double()), strict=True):
            assert one.shape == expected.shape
            assert (one.double() - expected).norm() / expected.norm() < 0.01

    @pytest.mark.parametrize("channels", [2, 16, 17])
    def test_a_narrow_network_convolves_in_bf16_with_the_kernel_of_the_preset(self, channels):
        """On some processors oneDNN went on without end."""
        torch.manual_seed(0)
        layer = DepthwiseConvolution(channels, 31).bfloat16()
        image = torch.randn(3, 40, channels).bfloat16().unsqueeze(1).permute(0, 3, 1, 2)
        found = self.gradients_of(depthwise, layer, image)
        for one, expected in zip(found, self.gradients_of(self.generally, layer.double(), image.double()), strict=True):
            assert (one.double() - expected).norm() / expected.norm() < 0.01

    def test_the_quick_gradient_is_used_in_bf16_alone(self):
        layer, image = DepthwiseConvolution(4, 3), torch.randn(2, 4, 1, 8)

        def convolved_by(dtype: torch.dtype) -> str:
            added = layer.to(dtype)(image.to(dtype)).grad_fn  # the bias comes last
            return added.next_functions[0][0].name()

        assert "_Convolve" not in convolved_by(torch.float32)
        assert "_Convolve" in convolved_by(torch.bfloat16)
