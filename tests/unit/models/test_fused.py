"""The fast paths: equal to the plain network, and out of the way where its modules are looked at or replaced."""

from __future__ import annotations

import copy
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from vavl.models import fast_linear as linear_module
from vavl.models.conformer import ConformerBlock, FeedForward, number_streams
from vavl.models.draws import DrawKey, keys_of_rows
from vavl.models.fused import FastFeedForward, use_kernels
from vavl.models.settings import LadderShape

CLIPS, FRAMES, WIDTH = 5, 9, 16
LENGTHS = (9, 4, 1, 7, 9)


@pytest.fixture(params=[1, 2**21], ids=["clip by clip", "at once"])
def _portions(request, monkeypatch):
    monkeypatch.setattr(linear_module, "_BYTES_AT_ONCE", request.param)


@pytest.fixture(params=[True, False], ids=["oneDNN", "MKL"])
def _products(request, monkeypatch):
    if request.param and not torch.backends.mkldnn.is_available():
        pytest.skip("this torch has no oneDNN")
    monkeypatch.setattr(linear_module, "_onednn_is_quicker", lambda: request.param)
    monkeypatch.setattr(linear_module, "_LEAST_PRODUCTS", 1)


def gradients_of(way, block, dtype: torch.dtype, *, dropped: bool, seed: int = 2) -> list[torch.Tensor]:
    """Return what a way of computing a block gives, and the gradients of its input and of every weight."""
    generator = torch.Generator().manual_seed(seed)
    frames, above = (torch.randn(CLIPS, FRAMES, WIDTH, generator=generator).to(dtype) for _ in range(2))
    frames.requires_grad_()
    is_real = torch.arange(FRAMES) < torch.tensor(LENGTHS).unsqueeze(1)
    rows = keys_of_rows(DrawKey(1, 2), torch.arange(CLIPS), 0) if dropped else None
    block.zero_grad()
    low = torch.autocast("cpu", torch.bfloat16) if dtype == torch.bfloat16 else nullcontext()
    with low:
        result = way(block, frames, is_real, rows)
    # What lies in the padding is undefined.
    result.backward(above * is_real.unsqueeze(-1))
    found = [result * is_real.unsqueeze(-1), frames.grad, *(weight.grad for weight in block.parameters())]
    return [one.detach().double() for one in found]


@pytest.fixture
def block(tiny_settings):
    torch.manual_seed(0)
    block = ConformerBlock(tiny_settings(dropout=0.3, convolution_kernel=5)).train()
    number_streams(block)
    return block


def fast(block, *arguments):
    use_kernels(block)
    return block(*arguments)


def plain(block, *arguments):
    use_kernels(block, on=False)
    return block(*arguments)


@pytest.mark.usefixtures("_portions", "_products")
@pytest.mark.parametrize("dropped", [False, True])
def test_a_block_is_the_plain_one_in_fp32(block, dropped):
    found, wanted = (gradients_of(way, block, torch.float32, dropped=dropped) for way in (fast, plain))
    assert len(found) == 2 + len(list(block.parameters()))
    for one, expected in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, expected, rtol=1e-5, atol=1e-5 * float(expected.abs().max()))


@pytest.mark.usefixtures("_portions")
@pytest.mark.parametrize("dropped", [False, True])
def test_a_block_in_bf16_is_as_near_to_float64_as_the_plain_one(block, dropped):
    """Norm over norm, mean of 8 draws: each gradient at most 1.3 times as far as the plain way's, or within 1 %."""
    far, farther = ([0.0] * (2 + len(list(block.parameters()))) for _ in range(2))
    for seed in range(8):
        rounded, found = (
            gradients_of(way, block.float(), torch.bfloat16, dropped=dropped, seed=seed) for way in (plain, fast)
        )
        exact = gradients_of(plain, block.double(), torch.float64, dropped=dropped, seed=seed)
        for place, (expected, one, other) in enumerate(zip(exact, found, rounded, strict=True)):
            far[place] += float((one - expected).norm() / expected.norm()) / 8
            farther[place] += float((other - expected).norm() / expected.norm()) / 8
    assert all(one < max(1.3 * other, 0.01) for one, other in zip(far, farther, strict=True))


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


def test_a_block_keeps_little_more_than_half_of_what_the_plain_one_keeps(tiny_settings):
    block = ConformerBlock(tiny_settings(dropout=0.3)).train()
    frames = torch.randn(64, FRAMES, WIDTH)
    is_real, rows = torch.ones(64, FRAMES, dtype=torch.bool), keys_of_rows(DrawKey(0, 0), torch.arange(64), 0)
    quickly = saved_bytes(lambda: fast(block, frames, is_real, rows))
    assert quickly < 0.6 * saved_bytes(lambda: plain(block, frames, is_real, rows))


KEY, CLIPS_OF_A_BATCH = DrawKey(3, 5), "av a v av? a?"


def everything(network, batch, key=None) -> list[torch.Tensor]:
    output = network(batch, key)
    layers = [] if output.ladder is None else [*output.ladder.audio.estimate, *output.ladder.video.estimate]
    return [*output.audio, *output.video, output.fusion_logits, output.label_correlation, *layers]


def called_parts(network, batch) -> tuple[set[str], set[str]]:
    """Return the names of all modules that have a forward, and of those whose hook ran in a training pass."""
    ran: set[str] = set()
    handles, every = [], set()
    for name, module in network.named_modules():
        if type(module) not in (nn.ModuleList, nn.ModuleDict):
            every.add(name)
            handles.append(module.register_forward_hook(lambda *_, name=name: ran.add(name)))
    network(batch, KEY)
    for handle in handles:
        handle.remove()
    return every, ran


@pytest.mark.parametrize("kernels", [True, False])
def test_a_hook_on_any_module_is_called(tiny_network, batches, kernels):
    network = tiny_network(ladder=LadderShape(lateral="both"), kernels=kernels).train()
    every, ran = called_parts(network, batches.of(batches.clips(CLIPS_OF_A_BATCH)))
    assert len(every) > 60
    assert ran == every


@pytest.mark.parametrize("register", ["register_forward_pre_hook", "register_full_backward_hook"])
def test_other_hooks_are_called_as_well(block, register):
    seen = []
    handle = getattr(block.attention.query_key_value, register)(lambda *_: seen.append(1))
    frames = torch.randn(CLIPS, FRAMES, WIDTH, requires_grad=True)
    is_real = torch.ones(CLIPS, FRAMES, dtype=torch.bool)
    fast(block, frames, is_real).sum().backward()
    assert seen == [1]
    handle.remove()
    fast(block, frames, is_real).sum().backward()
    assert seen == [1]


def test_every_plain_module_has_its_fast_form_and_back(tiny_network):
    network = tiny_network(kernels=False)
    names = [type(module).__name__ for module in network.modules()]
    use_kernels(network)
    fast_names = [type(module).__name__ for module in network.modules()]
    changed = {pair for pair in zip(names, fast_names, strict=True) if pair[0] != pair[1]}
    assert {after for _, after in changed} == {"FastFeedForward", "FastAttention", "FastConvolution", "FastPath"}
    assert all(type(module) is not nn.Linear for module in network.modules())
    use_kernels(network, on=False)
    assert [type(module).__name__ for module in network.modules()] == names


@pytest.mark.parametrize("key", [None, KEY], ids=["evaluation", "training"])
def test_the_network_is_the_plain_one(tiny_network, batches, key):
    """Every output and every gradient, with dropout, noise and ladder."""
    batch, found = batches.of(batches.clips(CLIPS_OF_A_BATCH)), []
    for kernels in (True, False):
        network = tiny_network(
            ladder=LadderShape(lateral="both"), dropout=0.3, head_dropout=0.3, input_dropout=0.2, kernels=kernels
        ).train(key is not None)
        outputs = everything(network, batch, key)
        sum(output.square().mean() for output in outputs).backward()
        gradients = [weight.grad for weight in network.parameters() if weight.grad is not None]
        found.append([*outputs, *gradients])
    assert len(found[0]) > 40
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


class Doubled(nn.Module):
    """What LoRA and its like put in the place of a layer: the layer, and something of their own."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, values):
        return 2 * self.layer(values)


@torch.no_grad()
@pytest.mark.parametrize("kernels", [True, False])
def test_a_linear_layer_that_is_replaced_counts(tiny_network, batches, kernels):
    batch, network = batches.of(batches.clips("av av")), tiny_network(kernels=kernels)
    before = torch.cat([value.flatten() for value in everything(network, batch)])
    names = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    assert len(names) > 20
    for name in names:
        changed = copy.deepcopy(network)
        changed.set_submodule(name, Doubled(changed.get_submodule(name)))
        after = torch.cat([value.flatten() for value in everything(changed, batch)])
        assert (after - before).abs().max() > 1e-4, name


@torch.no_grad()
def test_another_activation_counts(tiny_settings):
    layers = FeedForward(tiny_settings())
    frames = torch.randn(CLIPS, FRAMES, WIDTH)
    use_kernels(layers)
    before = layers(frames)
    layers[2] = nn.GELU()
    assert type(layers) is FastFeedForward
    assert (layers(frames) - before).abs().max() > 1e-4


@torch.no_grad()
@pytest.mark.parametrize("kernels", [True, False])
def test_a_compiled_network_is_the_same(tiny_network, batches, kernels):
    batch, network = batches.of(batches.clips(CLIPS_OF_A_BATCH)), tiny_network(kernels=False)
    expected = everything(network, batch)
    use_kernels(network, on=kernels)
    compiled = torch.compile(network, backend="eager", fullgraph=False)
    for one, other in zip(everything(compiled, batch), expected, strict=True):
        torch.testing.assert_close(one, other)
    torch.compiler.reset()


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:torch.(ao.quantization|quantize_per_tensor).* deprecated")
def test_linear_layers_can_be_quantized(tiny_network, batches):
    batch, network = batches.of(batches.clips(CLIPS_OF_A_BATCH)), tiny_network(kernels=False)
    small = torch.ao.quantization.quantize_dynamic(network, {nn.Linear}, dtype=torch.qint8)
    assert type(small.audio_path.blocks[0].attention.query_key_value) is not nn.Linear
    logits, exact = small(batch).fusion_logits, network(batch).fusion_logits
    assert not torch.equal(logits, exact)
    assert (logits - exact).norm() / exact.norm() < 0.2
