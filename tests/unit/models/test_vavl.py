"""The VAVL network: what a prediction depends on, and what it must not depend on."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from vavl.errors import InputError
from vavl.models.conformer import Subsampling, mean_and_deviation
from vavl.models.draws import DrawKey, Dropout, random_choices
from vavl.models.ladder import LadderVavl
from vavl.models.settings import LadderShape, NetworkSettings
from vavl.models.vavl import Vavl, VavlOutput, parameter_count

CLIPS = "av av? a v av a? v? av"
KEY = DrawKey(seed=3, step=5)


@pytest.fixture
def network(tiny_network):
    return tiny_network().eval()


@pytest.fixture
def dropping_network(tiny_network):
    return tiny_network(dropout=0.3, head_dropout=0.3, input_dropout=0.3).train()


def rows_of(output: VavlOutput, batch) -> dict[tuple[str, int], torch.Tensor]:
    """Everything that the network says of each clip, by name and place in the batch."""
    found = {}
    for name, path, side in (("audio", output.audio, batch.audio), ("video", output.video, batch.video)):
        for row, place in enumerate(side.clip.tolist()):
            if side.weight[row] > 0:
                found |= {(f"{name} {what}", place): value[row] for what, value in path._asdict().items()}
    for place in range(batch.clips):
        if batch.has_audio[place] and batch.has_video[place]:
            found["fusion", place] = output.fusion_logits[place]
    return found


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    assert found
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, atol=1e-5, rtol=1e-5, msg=str(key))


@torch.no_grad()
def test_a_clip_alone_is_predicted_as_within_a_batch(network, batches):
    clips = batches.clips(CLIPS)
    batch = batches.of(clips)
    together = rows_of(network(batch), batch)
    alone = {}
    for place, clip in enumerate(clips):
        single = batches.of([clip])
        alone |= {(name, place): value for (name, _), value in rows_of(network(single), single).items()}
    assert_same(together, alone)


@torch.no_grad()
def test_the_order_of_the_clips_does_not_matter(network, batches):
    clips = batches.clips(CLIPS)
    batch = batches.of(clips)
    order = [5, 0, 7, 3, 2, 6, 4, 1]
    turned = batches.of([clips[place] for place in order])
    found = {(name, order[place]): value for (name, place), value in rows_of(network(turned), turned).items()}
    assert_same(found, rows_of(network(batch), batch))


@torch.no_grad()
def test_other_batch_mates_and_fillers_do_not_matter(network, batches):
    clips = batches.clips(CLIPS)
    batch = batches.of(clips[:3])
    crowd = batches.of([*clips[:3], *batches.clips("av a v av av", seed=9)], fillers=4)
    found = {key: value for key, value in rows_of(network(crowd), crowd).items() if key[1] < 3}
    assert_same(found, rows_of(network(batch), batch))


@torch.no_grad()
@pytest.mark.parametrize("garbage", [0.0, 1e30, -1e30, math.inf, math.nan])
@pytest.mark.parametrize("frames", [0, 1, 40])
def test_length_and_content_of_padding_do_not_matter(network, batches, frames, garbage):
    batch = batches.of(batches.clips(CLIPS))
    padded = batches.padded(batch, frames, garbage)
    assert_same(rows_of(network(padded), padded), rows_of(network(batch), batch))


@pytest.mark.parametrize("garbage", [1e30, math.nan])
def test_padding_does_not_reach_the_gradients(network, batches, gradients, garbage):
    batch = batches.of(batches.clips(CLIPS))

    def of(some) -> dict[str, torch.Tensor]:
        network.zero_grad()
        sum(value.square().sum() for value in rows_of(network(some), some).values()).backward()
        return gradients(network)

    expected = of(batch)
    for name, value in of(batches.padded(batch, 17, garbage)).items():
        torch.testing.assert_close(value, expected[name], rtol=1e-3, atol=1e-4, msg=name)


@torch.no_grad()
@pytest.mark.parametrize("change", ["reversed", "shuffled"])
def test_the_order_of_the_frames_matters(network, batches, change):
    clips = batches.clips("av av av")

    def moved(values):
        if change == "reversed":
            return values[::-1]
        return values[torch.randperm(len(values), generator=torch.Generator().manual_seed(3)).numpy()]

    changed = [replace(clip, audio=moved(clip.audio), video=moved(clip.video)) for clip in clips]
    before, after = batches.of(clips), batches.of(changed)
    expected, found = rows_of(network(before), before), rows_of(network(after), after)
    for key, value in expected.items():
        if len(clips[key[1]].audio) > 2 and len(clips[key[1]].video) > 2:
            assert (found[key] - value).abs().max() > 1e-4, key


@torch.no_grad()
def test_one_frame_is_enough(network, batches):
    clips = [replace(clip, video=clip.video[:1]) for clip in batches.clips("av v")]
    output = network(batches.of(clips))
    assert torch.isfinite(output.fusion_logits).all()
    assert torch.isfinite(output.video.logits).all()


@torch.no_grad()
@pytest.mark.parametrize("description", ["a a", "v", "a v"])
def test_a_batch_without_a_modality_runs_the_same_graph(network, batches, description):
    batch = batches.of(batches.clips(description), fillers=1)
    output = network(batch)
    assert output.fusion_logits.shape == (batch.clips, batches.outputs)
    for value in (*output.audio, *output.video, output.fusion_logits):
        assert torch.isfinite(value).all()


def test_each_modality_has_the_shapes_that_the_contract_says(network, batches):
    output = network(batches.of(batches.clips("av a v av")))
    assert output.audio.representation.shape == (3, 16)
    assert output.audio.logits.shape == (3, 3)
    assert output.audio.reconstruction.shape == (3, batches.audio_width)
    assert output.video.reconstruction.shape == (3, batches.video_width)
    assert output.fusion_logits.shape == (4, 3)


def trained_parts(network, gradients) -> set[str]:
    return {name.split(".")[0] for name, value in gradients(network).items() if value.abs().max() > 0}


def test_gradient_of_each_output_stays_on_its_path(network, batches, gradients):
    batch = batches.of(batches.clips("av av"))
    expected = {
        "fusion": {"fusion_head"},
        "audio logits": {"audio_path", "shared"},
        "audio reconstruction": {"audio_path", "shared"},
        "video logits": {"video_path", "shared"},
        "video reconstruction": {"video_path", "shared"},
    }
    for name, parts in expected.items():
        network.zero_grad()
        rows_of(network(batch), batch)[name, 0].square().sum().backward()
        assert trained_parts(network, gradients) == parts, name


def test_both_modalities_share_the_upper_blocks(network):
    shared = {id(parameter) for parameter in network.shared.parameters()}
    own = [{id(p) for p in path.parameters()} for path in (network.audio_path, network.video_path)]
    assert shared
    assert not own[0] & own[1]
    assert not shared & (own[0] | own[1])


@torch.no_grad()
def test_the_shared_blocks_add_their_input_before_the_norm(network):
    """h = LayerNorm(S(x) + x)."""
    shared = network.shared
    x, is_real = (torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(0)), torch.ones(2, 5, dtype=torch.bool))
    inner = x
    for block in shared.blocks:
        inner = block(inner, is_real)
    torch.testing.assert_close(shared(x, is_real, None, [None])[0], shared.norm(inner + x))
    assert (shared(x, is_real, None, [None])[0] - shared.norm(inner)).abs().max() > 1e-2


def test_the_paper_preset_has_about_55_million_parameters():
    with torch.device("meta"):
        network = Vavl(NetworkSettings(), audio_width=1024, video_width=1408, outputs=6)
    assert 52e6 < parameter_count(network) < 57e6
    per_block = parameter_count(network.audio_path.blocks) / 3
    assert parameter_count(network.shared) == pytest.approx(2 * per_block, rel=1e-3)


def test_the_small_preset_is_small():
    with torch.device("meta"):
        network = Vavl(NetworkSettings(preset="small"), 80, 64, 6)
    assert parameter_count(network) < 2e6


def test_a_training_pass_needs_a_key(tiny_network, batches):
    batch = batches.of(batches.clips("av a"))
    network = tiny_network().train()
    with pytest.raises(InputError, match="network: key: is missing in training mode"):
        network(batch)
    assert_same(rows_of(network(batch, KEY), batch), rows_of(network.eval()(batch), batch))


@torch.no_grad()
def test_dropout_is_a_function_of_seed_and_step(dropping_network, batches):
    batch = batches.of(batches.clips("av av"))
    first = dropping_network(batch, KEY).fusion_logits
    assert torch.equal(dropping_network(batch, KEY).fusion_logits, first)
    for other in (DrawKey(4, 5), DrawKey(3, 6)):
        assert not torch.equal(dropping_network(batch, other).fusion_logits, first)


@torch.no_grad()
def test_a_clip_loses_the_same_in_any_micro_batch_and_padding(dropping_network, batches):
    """Clips dealt in turn to three slots keep the draws of their place in the global batch."""
    clips = batches.clips(CLIPS)
    whole = batches.of(clips)
    expected = rows_of(dropping_network(whole, KEY), whole)
    found = {}
    for slot in range(3):
        part = batches.of(clips[slot::3])
        dealt = batches.padded(replace(part, place=slot + 3 * torch.arange(part.clips)), 5, math.nan)
        rows = rows_of(dropping_network(dealt, KEY), dealt)
        found |= {(name, slot + 3 * place): value for (name, place), value in rows.items()}
    assert_same(found, expected)
    moved = replace(whole, place=whole.place + 1)
    other = rows_of(dropping_network(moved, KEY), moved)
    assert all((other[name] - value).abs().max() > 1e-4 for name, value in expected.items())


@torch.no_grad()
def test_every_dropout_draws_numbers_of_its_own(tiny_network, batches, monkeypatch):
    """Once per module, and once per modality in the blocks that see both."""
    network = tiny_network(dropout=0.5, head_dropout=0.5, input_dropout=0.5).train()
    seen = []

    def record(rows, stream, count, level):
        seen.append((stream, *rows.tolist()))
        return random_choices(rows, stream, count, level)

    monkeypatch.setattr("vavl.models.draws.random_choices", record)
    network(batches.of(batches.clips("av av")), KEY)
    modules = [name for name, module in network.named_modules() if isinstance(module, Dropout)]
    shared = [name for name in modules if name.startswith("shared")]
    assert shared
    assert len(set(seen)) == len(seen) == len(modules) + len(shared)


@torch.no_grad()
@pytest.mark.parametrize("setting", ["dropout", "head_dropout", "input_dropout"])
def test_every_dropout_setting_changes_training_and_not_evaluation(tiny_network, batches, setting):
    batch = batches.of(batches.clips("av av"))
    plain, dropped = tiny_network(), tiny_network(**{setting: 0.5})
    assert torch.equal(plain.eval()(batch).audio.logits, dropped.eval()(batch).audio.logits)
    assert torch.equal(dropped(batch, KEY).audio.logits, dropped(batch).audio.logits)
    for part in ("audio", "video"):
        logits = [getattr(one.train()(batch, KEY), part).logits for one in (plain, dropped)]
        assert not torch.equal(*logits)


@pytest.mark.parametrize("detached", [True, False])
def test_activation_checkpointing_changes_no_number(tiny_settings, batches, gradients, detached):
    """With dropout, noise and the clean pass; also gradients of one part by ``torch.autograd.grad``."""
    batch = batches.of(batches.clips(CLIPS))
    settings = tiny_settings(dropout=0.2, head_dropout=0.2, input_dropout=0.2, modality_blocks=2)
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(0)
        network = LadderVavl(
            settings, 6, 5, 3, LadderShape(detach_target=detached), activation_checkpointing=checkpointing
        ).train()
        output = network(batch, KEY)
        layers = [*output.ladder.audio.estimate, *output.ladder.video.clean]
        values = [*output.audio, *output.video, output.fusion_logits, output.label_correlation, *layers]
        part = torch.autograd.grad(output.audio.logits.sum(), list(network.shared.parameters()), retain_graph=True)
        sum(value.square().sum() for value in values).backward()
        found.append([*values, *part, *gradients(network).values()])
    for plain, checkpointed in zip(*found, strict=True):
        assert torch.equal(plain, checkpointed)


def test_activation_checkpointing_changes_no_name_of_a_weight(tiny_settings):
    plain, checkpointed = (Vavl(tiny_settings(), 6, 5, 3, switch) for switch in (False, True))
    assert plain.state_dict().keys() == checkpointed.state_dict().keys()


@torch.no_grad()
def test_permuting_the_classes_permutes_the_outputs_only(tiny_network, batches):
    network, batch = tiny_network().eval(), batches.of(batches.clips("av a v"))
    before = network(batch)
    order = torch.tensor([2, 0, 1])
    for head in (network.audio_path.head, network.video_path.head, network.fusion_head):
        head[-1].weight.copy_(head[-1].weight[order])
        head[-1].bias.copy_(head[-1].bias[order])
    after = network(batch)
    torch.testing.assert_close(after.fusion_logits, before.fusion_logits[:, order])
    torch.testing.assert_close(after.audio.logits, before.audio.logits[:, order])
    torch.testing.assert_close(after.audio.reconstruction, before.audio.reconstruction)


OPTIONS = (
    {"blocks": "feed_forward"}, {"subsampling": 2}, {"subsampling": 4}, {"pooling": "attention"},
    {"pooling": "statistics"}, {"input_statistics": True}, {"layers": (3, 1)},
    {"layers": (3, 1), "input_statistics": True},
)  # fmt: skip


class TestOptions:
    @torch.no_grad()
    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_a_prediction_depends_on_its_clip_alone(self, tiny_network, batches, options):
        """Neither on batch-mates nor on the amount and content of padding; it is another one than without."""
        network, clips = tiny_network(**options), batches.clips(CLIPS)
        batch = batches.of(clips)
        expected = rows_of(network(batch), batch)
        padded = batches.padded(batch, 7, math.nan)
        assert_same(rows_of(network(padded), padded), expected)
        alone = {}
        for place, clip in enumerate(clips):
            single = batches.of([clip])
            alone |= {(name, place): value for (name, _), value in rows_of(network(single), single).items()}
        assert_same(alone, expected)

    @pytest.mark.parametrize("options", OPTIONS, ids=str)
    def test_every_weight_is_trained_and_stays_finite_with_single_frames(self, tiny_network, batches, options):
        network = tiny_network(dropout=0.2, **options).train()
        clips = [replace(clip, audio=None if clip.audio is None else clip.audio[:1]) for clip in batches.clips(CLIPS)]
        output = network(batches.of(clips), KEY)
        sum(one.square().sum() for one in (*output.audio, *output.video, output.fusion_logits)).backward()
        for name, weight in network.named_parameters():
            if name != "correlate_label.weight":
                assert weight.grad is not None, name
                assert weight.grad.isfinite().all(), name

    def test_without_options_a_network_has_the_weights_of_before(self, tiny_network):
        names = {name for name, _ in tiny_network().named_parameters()}
        options = ("pool", "subsample", "statistics", ".weigh.")
        assert not {name for name in names if any(option in name for option in options)}
        for options in OPTIONS[1:]:
            assert names < {name for name, _ in tiny_network(**options).named_parameters()}

    @torch.no_grad()
    def test_feed_forward_blocks_mix_no_frames(self, tiny_network, batches):
        network, clip = tiny_network(blocks="feed_forward"), batches.clips("a")[0]
        assert len(clip.audio) > 2
        turned = [network(batches.of([replace(clip, audio=frames)])) for frames in (clip.audio, clip.audio[::-1])]
        torch.testing.assert_close(turned[0].audio.logits, turned[1].audio.logits)
        assert not any("attention" in name or "convolution" in name for name, _ in network.named_modules())

    @torch.no_grad()
    @pytest.mark.parametrize(("frames", "factor", "left"), [(1, 2, 1), (8, 2, 4), (9, 2, 5), (9, 4, 3), (5, 1, 5)])
    def test_subsampling_leaves_one_of_so_many_frames(self, frames, factor, left):
        assert Subsampling(3, factor)(torch.randn(2, frames, 3), None).shape == (2, left, 3)

    def test_mean_and_deviation_are_those_of_the_real_frames(self):
        frames = torch.randn(2, 6, 3)
        is_real = torch.arange(6) < torch.tensor([[6], [4]])
        found = mean_and_deviation(frames, is_real)
        for row, length in enumerate((6, 4)):
            real = frames[row, :length]
            torch.testing.assert_close(found[row, :3], real.mean(0))
            torch.testing.assert_close(found[row, 3:], real.std(0, correction=0), rtol=1e-3, atol=1e-4)


class TestLayerWeights:
    @torch.no_grad()
    @pytest.mark.parametrize("options", [{}, {"input_statistics": True, "pooling": "attention"}], ids=str)
    def test_layers_count_alike_at_first_and_then_as_learned(self, tiny_network, batches, options):
        """A clip of three layers is predicted as one whose layers are all their weighted mean."""
        network = tiny_network(layers=(3, 1), **options)
        weights = network.audio_path.weigh
        clip = batches.clips("av")[0]
        layers = clip.audio.reshape(len(clip.audio), 3, -1)
        for logits, shares in (((0, 0, 0), (1 / 3, 1 / 3, 1 / 3)), ((0, math.log(2), 0), (0.25, 0.5, 0.25))):
            weights.logits.copy_(torch.tensor(logits) / 30)
            torch.testing.assert_close(weights.shares(), torch.tensor(shares))
            mean = np.einsum("tlc,l->tc", layers, np.float32(shares))
            same = batches.of([replace(clip, audio=np.tile(mean, 3))])
            batch = batches.of([clip])
            assert_same(rows_of(network(batch), batch), rows_of(network(same), same))

    def test_the_gradient_reaches_the_weight_of_every_layer(self, tiny_network, batches):
        network = tiny_network(layers=(3, 1)).train()
        output = network(batches.of(batches.clips(CLIPS)), KEY)
        output.audio.logits.square().sum().backward()
        gradient = network.audio_path.weigh.logits.grad
        assert (gradient.abs() > 1e-6).all()
        assert gradient.sum().abs() < 1e-4 * gradient.abs().max()  # all weights up together change nothing
