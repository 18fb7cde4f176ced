"""The cross-modal ladder in the network: what its estimates and the predictions depend on."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch

from vavl.data.batch import ClipBatch, WeakView
from vavl.models.draws import DrawKey
from vavl.models.ladder import Combinator, LadderVavl, layer_noise
from vavl.models.settings import LadderShape
from vavl.models.vavl import TRAINING_PREFIXES, Vavl

KEY = DrawKey(seed=3, step=5)
CLIPS = "av av? a v av a? v? av"
SHAPES = [
    {"lateral": lateral, "top": top}
    for lateral, top in itertools.product(("own", "other", "both", "none"), ("own", "other"))
]
EVERY_SHAPE = pytest.mark.parametrize("shape", SHAPES, ids=lambda shape: "-".join(shape.values()))


@pytest.fixture
def ladder_network(tiny_network):
    """Return a function that gives a network with a ladder; every weight is away from zero."""
    return lambda **shape: tiny_network(ladder=LadderShape(**shape))


def make_identity(network: Vavl) -> None:
    """Set every combinator to return its lateral input, as it does before training."""
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, Combinator):
                module.load_state_dict(Combinator(module.linear.shape[1]).state_dict())


def real_frames(layers, side) -> list[torch.Tensor]:
    return [layer.expand(-1, side.is_real.shape[1], -1)[side.is_real] for layer in layers]


def assert_all_equal(found, expected, **tolerance):
    assert len(found) == len(expected) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **(tolerance or {"rtol": 0, "atol": 0}))


class TestCombinator:
    def test_it_has_the_product_of_its_inputs(self):
        """Pezeshki et al. (2016), eq. 10."""
        combine = Combinator(3)
        with torch.no_grad():
            for parameter in combine.parameters():
                parameter.normal_(generator=torch.Generator().manual_seed(0))
        z, u = torch.randn(2, 4, 5, 3, generator=torch.Generator().manual_seed(1))
        (b0, w0z, w0u, w0p), (b1, w1z, w1u, w1p) = combine.linear, combine.gate
        gate = torch.sigmoid(b1 + w1z * z + w1u * u + w1p * z * u)
        expected = b0 + w0z * z + w0u * u + w0p * z * u + combine.gate_scale * gate
        torch.testing.assert_close(combine(z, u), expected)
        assert (w0p * z * u).abs().max() > 0.1

    def test_it_starts_as_the_identity_of_the_lateral_input(self):
        z, u = torch.randn(2, 4, 5, 3)
        assert torch.equal(Combinator(3)(z, u), z)

    def test_a_vertical_input_of_one_frame_reaches_every_frame(self):
        combine = Combinator(3)
        z, u = torch.randn(4, 5, 3), torch.randn(4, 1, 3)
        torch.testing.assert_close(combine(z, u), combine(z, u.expand(4, 5, 3)))


class TestNoise:
    def test_without_noise_the_corrupted_pass_is_the_clean_one(self, ladder_network, batches):
        network, batch = ladder_network(noise=0), batches.of(batches.clips(CLIPS))
        make_identity(network)  # own lateral input: the estimate is the corrupted layer itself
        noisy, plain = network(batch, KEY), network(batch)
        for name in ("audio", "video"):
            trace = getattr(noisy.ladder, name)
            assert_all_equal(trace.estimate, trace.clean)
            assert_all_equal(getattr(noisy, name), getattr(plain, name))
        assert torch.equal(noisy.fusion_logits, plain.fusion_logits)

    def test_noise_has_its_deviation_on_the_input_and_after_every_block(self, ladder_network, batches):
        network, batch = ladder_network(noise=0.3), batches.of(batches.clips(" ".join(["av"] * 60)))
        make_identity(network)
        trace = network(batch, KEY).ladder.audio
        assert len(trace.clean) == 3  # input, one block of the modality, one shared
        widths = network.audio_path.widths
        drawn = layer_noise(KEY, 0, batch.audio, batch.place, sum(widths)).split(widths, dim=-1)
        noise = [
            one - other
            for one, other in zip(
                real_frames(trace.estimate, batch.audio), real_frames(trace.clean, batch.audio), strict=True
            )
        ]
        torch.testing.assert_close(noise[0], 0.3 * real_frames(drawn, batch.audio)[0], rtol=0, atol=1e-6)
        for one in noise[1:]:  # its own noise and what is left of that below
            assert float(one.detach().std()) > 0.29

    def test_predictions_come_from_the_corrupted_pass_while_training(self, ladder_network, batches):
        network, batch = ladder_network(noise=0.3), batches.of(batches.clips(CLIPS))
        first, same, other = (network(batch, key) for key in (KEY, KEY, DrawKey(4, 5)))
        assert torch.equal(first.audio.logits, same.audio.logits)
        for noisy in (first, other):
            assert (noisy.audio.logits - network(batch).audio.logits).abs().max() > 1e-3
        assert (first.video.logits - other.video.logits).abs().max() > 1e-3
        assert_all_equal(first.ladder.audio.clean, other.ladder.audio.clean)

    def test_the_clean_pass_has_no_dropout(self, tiny_network, batches):
        network = tiny_network(dropout=0.5, head_dropout=0.5, ladder=LadderShape(noise=0)).train()
        batch = batches.of(batches.clips("av av"))
        found, other = network(batch, KEY), network(batch, DrawKey(3, 6))
        assert_all_equal(other.ladder.audio.clean, found.ladder.audio.clean)
        assert not torch.equal(other.audio.logits, found.audio.logits)
        without = tiny_network(ladder=LadderShape(noise=0))(batch, KEY)
        assert_all_equal(found.ladder.audio.clean, without.ladder.audio.clean)

    def test_a_clip_has_the_same_estimates_in_any_micro_batch(self, ladder_network, batches):
        network, clips = ladder_network(lateral="both"), batches.clips(CLIPS)
        whole = batches.of(clips)
        expected = estimates_by_place(network, whole)
        found = {}
        for slot in range(3):
            part = batches.of(clips[slot::3])
            found |= estimates_by_place(network, replace(part, place=slot + 3 * torch.arange(part.clips)))
        assert found.keys() == expected.keys()
        for key, value in expected.items():
            torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5, msg=str(key))

    @pytest.mark.parametrize("garbage", [1e30, float("nan")])
    @EVERY_SHAPE
    def test_padding_and_its_content_change_nothing(self, ladder_network, batches, shape, garbage):
        network, batch = ladder_network(**shape), batches.of(batches.clips(CLIPS))
        expected = estimates_by_place(network, batch)
        for key, value in estimates_by_place(network, batches.padded(batch, 7, garbage)).items():
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-5, msg=str(key))


def estimates_by_place(network: Vavl, batch: ClipBatch) -> dict[tuple[str, int, int], torch.Tensor]:
    """Return estimates of the real frames by modality, layer and place of the clip."""
    ladder, found = network(batch, KEY).ladder, {}
    for name, side in (("audio", batch.audio), ("video", batch.video)):
        for layer, values in enumerate(getattr(ladder, name).estimate):
            whole = values.expand(-1, side.is_real.shape[1], -1)
            for row, place in enumerate(batch.place[side.clip].tolist()):
                if side.weight[row] > 0:
                    found[name, layer, place] = whole[row, side.is_real[row]]
    return found


class TestPredictions:
    @EVERY_SHAPE
    def test_they_depend_neither_on_decoder_weights_nor_on_a_seed(self, ladder_network, tiny_network, batches, shape):
        batch = batches.of(batches.clips(CLIPS))
        network = ladder_network(**shape).eval()
        plain = tiny_network().eval()
        kept = {name: value for name, value in network.state_dict().items() if not name.startswith(TRAINING_PREFIXES)}
        assert len(kept) < len(network.state_dict())
        plain.load_state_dict(kept)
        expected = plain(batch)
        corrupted = network(batch, KEY)
        with torch.no_grad():
            for parameter in network.ladder.parameters():
                parameter.normal_()
        assert network(batch).ladder is None
        for found, wanted in ((network(batch), expected), (network(batch, KEY), corrupted)):
            for name in ("audio", "video"):
                assert_all_equal(getattr(found, name), getattr(wanted, name))
            assert torch.equal(found.fusion_logits, wanted.fusion_logits)


class TestCrossing:
    """Which modality the estimates of the audio layers of a pair see."""

    @pytest.mark.parametrize(
        ("shape", "own", "other"),
        [
            ({"lateral": "own", "top": "own"}, True, False),
            ({"lateral": "own", "top": "other"}, True, True),
            ({"lateral": "other", "top": "own"}, True, True),
            ({"lateral": "other", "top": "other"}, False, True),
            ({"lateral": "both", "top": "own"}, True, True),
            ({"lateral": "none", "top": "own"}, True, False),
            ({"lateral": "none", "top": "other"}, False, True),
        ],
        ids=lambda value: "-".join(value.values()) if isinstance(value, dict) else "",
    )
    def test_a_pair_sees_what_the_switches_say(self, ladder_network, batches, shape, own, other):
        network, clips = ladder_network(**shape), batches.clips("av av")
        expected = estimates_by_place(network, batches.of(clips))
        for side, should_change in (("audio", own), ("video", other)):
            changed = replace(clips[0], **{side: getattr(clips[0], side) + 1})
            found = estimates_by_place(network, batches.of([changed, clips[1]]))
            for layer in range(3):
                is_changed = not torch.equal(found["audio", layer, 0], expected["audio", layer, 0])
                # The lateral input of the lowest layer is the input itself; all above see both.
                assert is_changed == should_change, (side, layer)
            assert torch.equal(found["audio", 0, 1], expected["audio", 0, 1])  # another clip

    @EVERY_SHAPE
    def test_an_unpaired_clip_uses_its_own_top(self, ladder_network, batches, shape):
        network, clips = ladder_network(**shape), batches.clips("a v")
        found = estimates_by_place(network, batches.of(clips))
        alone = estimates_by_place(network, batches.of(clips[:1]))
        for layer in range(3):
            torch.testing.assert_close(found["audio", layer, 0], alone["audio", layer, 0])
        changed = replace(clips[0], audio=clips[0].audio + 1)
        for layer in range(3):
            other = estimates_by_place(network, batches.of([changed, clips[1]]))["audio", layer, 0]
            assert not torch.equal(other, found["audio", layer, 0])

    @EVERY_SHAPE
    def test_swapping_the_modalities_swaps_the_outputs(
        self, ladder_network, tiny_settings, batches, shape, monkeypatch
    ):
        batch, network = batches.of(batches.clips(CLIPS)), ladder_network(**shape)
        expected = network(batch, KEY)
        mirror = LadderVavl(tiny_settings(), batches.video_width, batches.audio_width, 3, LadderShape(**shape))
        mirror.load_state_dict({swapped(name): mirrored(name, value) for name, value in network.state_dict().items()})
        turned = replace(
            batch, audio=batch.video, video=batch.audio, has_audio=batch.has_video, has_video=batch.has_audio
        )
        # Streams belong to the names of the modalities, so they are swapped as well.
        monkeypatch.setattr(
            "vavl.models.ladder.layer_noise", lambda key, stream, *rest: layer_noise(key, 1 - stream, *rest)
        )
        found = mirror(turned, KEY)
        assert_all_equal(found.audio, expected.video)
        assert_all_equal(found.video, expected.audio)
        torch.testing.assert_close(found.fusion_logits, expected.fusion_logits)
        for one, other in (("audio", "video"), ("video", "audio")):
            assert_all_equal(getattr(found.ladder, one).estimate, getattr(expected.ladder, other).estimate)
            assert_all_equal(getattr(found.ladder, one).clean, getattr(expected.ladder, other).clean)


def swapped(name: str) -> str:
    """Return the name of a weight when audio and video change places."""
    for one, other in (("audio_path", "video_path"), ("ladder.audio", "ladder.video")):
        if name.startswith(one):
            return name.replace(one, other, 1)
        if name.startswith(other):
            return name.replace(other, one, 1)
    return name


def mirrored(name: str, value: torch.Tensor) -> torch.Tensor:
    """The fusion head reads audio, then video."""
    return torch.cat(value.chunk(2, dim=1)[::-1], dim=1) if name == "fusion_head.0.weight" else value


@pytest.mark.parametrize("detached", [True, False])
def test_the_clean_layers_carry_a_gradient_only_where_targets_are_not_detached(ladder_network, batches, detached):
    network, batch = ladder_network(detach_target=detached), batches.of(batches.clips(CLIPS))
    trace = network(batch, KEY).ladder.video
    assert [layer.requires_grad for layer in trace.clean] == [False] + [not detached] * 2
    assert all(layer.requires_grad for layer in trace.estimate)
    with torch.no_grad():
        assert not any(layer.requires_grad for layer in network(batch, KEY).ladder.video.clean)


@pytest.mark.parametrize("detached", [True, False])
@pytest.mark.parametrize("description", ["av? a? v?", "a? a?", "-"])
def test_the_weak_view_is_predicted_along_with_the_clean_pass(ladder_network, batches, detached, description):
    """As a pass by itself predicts it, without a gradient; the rest of the output stays what it is."""
    network, batch = ladder_network(detach_target=detached, lateral="both"), batches.of(batches.clips(CLIPS))
    weak = batches.of(batches.clips(description), fillers=1)
    expected, alone = network(weak), network(batch, KEY)
    found = network(replace(batch, weak=WeakView(weak, torch.arange(weak.clips))), KEY)
    assert alone.weak is None
    for name in ("audio", "video"):
        assert_all_equal(getattr(found.weak, name), getattr(expected, name), rtol=1e-5, atol=1e-6)
        assert_all_equal(getattr(found, name), getattr(alone, name))
        for part in ("clean", "estimate"):
            layers = [getattr(getattr(one.ladder, name), part) for one in (found, alone)]
            assert_all_equal(*(real_frames(one, getattr(batch, name)) for one in layers), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(found.weak.fusion_logits, expected.fusion_logits, rtol=1e-5, atol=1e-6)
    assert not found.weak.fusion_logits.requires_grad
    assert found.fusion_logits.requires_grad


@EVERY_SHAPE
@pytest.mark.parametrize("description", ["a a?", "v", "-", "a v"])
def test_batches_without_pairs_run_the_whole_graph(ladder_network, batches, gradients, shape, description):
    network = ladder_network(**shape, detach_target=False)
    output = network(batches.of(batches.clips(description), fillers=1), KEY)
    every = [*output.ladder.audio.estimate, *output.ladder.video.estimate, *output.ladder.video.clean]
    assert all(torch.isfinite(layer).all() for layer in every)
    sum(layer.square().sum() for layer in every).backward()
    without = [name for name, parameter in network.ladder.named_parameters() if parameter.grad is None]
    assert not without


def test_a_ladder_rebuilds_all_stored_layers(tiny_network, batches):
    network = tiny_network(layers=(3, 1), ladder=LadderShape()).train()
    trace = network(batches.of(batches.clips("av a v")), KEY).ladder.audio
    assert trace.clean[0].shape[-1] == trace.estimate[0].shape[-1] == batches.audio_width
