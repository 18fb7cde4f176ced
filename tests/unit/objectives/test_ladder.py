"""Cost of the ladder: its formula, its normalizers, and where its gradient goes."""

from __future__ import annotations

import itertools
from dataclasses import replace
from functools import reduce

import pytest
import torch

from vavl.data.batch import ModalityBatch
from vavl.models.draws import DrawKey
from vavl.models.ladder import Combinator
from vavl.models.settings import ClassTask, LadderShape
from vavl.models.vavl import LadderTrace
from vavl.objectives.ladder import ladder_cost, ladder_loss, ladder_moments
from vavl.objectives.moments import add_moments
from vavl.objectives.settings import HgrSettings, LadderSettings, ObjectiveSettings
from vavl.objectives.total import Objective

KEY = DrawKey(seed=3, step=5)
CLIPS = "av av? a v av a? v? av a av"
LAYERS = 3
WEIGHTS = (1.0,) * LAYERS
DETACHED = pytest.mark.parametrize("detached", [True, False], ids=["detached", "followed"])


@pytest.fixture
def ladder_network(tiny_network):
    """Return a function that gives a network with a ladder; every weight is away from zero."""
    return lambda **shape: tiny_network(ladder=LadderShape(**shape))


def cost_of(network, batch, name, weights=WEIGHTS):
    """Return the cost of one modality of a batch that is on its own."""
    trace = getattr(network(batch, KEY).ladder, name)
    return ladder_cost(ladder_moments(trace, getattr(batch, name)), weights)


def moved_by(network, gradients, loss) -> set[str]:
    """Return the parts of the network that a loss moves; ``ladder.audio`` and ``ladder.video`` apart."""
    network.zero_grad()
    loss.backward()
    return {
        ".".join(name.split(".")[: 2 if name.startswith("ladder") else 1])
        for name, value in gradients(network).items()
        if value.abs().max() > 0
    }


class TestFormula:
    def test_it_is_the_mean_normalised_squared_error(self, ladder_network, batches):
        """Over channels and real frames of a clip, then over clips; long clips count no more than short ones."""
        network, batch = ladder_network(), batches.of(batches.clips(CLIPS))
        trace, side = network(batch, KEY).ladder.audio, batch.audio
        expected = 0.0
        for weight, clean, estimate in zip((0.5, 2.0, 3.0), trace.clean, trace.estimate, strict=True):
            variance = clean[side.is_real].var(dim=0, unbiased=False)
            errors = [
                ((one - other).square() / variance)[real].mean()
                for one, other, real in zip(estimate, clean, side.is_real, strict=True)
            ]
            expected = expected + weight * torch.stack(errors).mean()
        found = cost_of(network, batch, "audio", (0.5, 2.0, 3.0))
        torch.testing.assert_close(found.float(), expected)
        assert found > 1

    def test_the_identity_without_noise_costs_nothing(self, ladder_network, batches):
        network, batch = ladder_network(noise=0), batches.of(batches.clips(CLIPS))
        with torch.no_grad():
            for module in network.modules():
                if isinstance(module, Combinator):
                    module.load_state_dict(Combinator(module.linear.shape[1]).state_dict())
        for name in ("audio", "video"):
            assert cost_of(network, batch, name) == 0
            assert cost_of(ladder_network(noise=0), batch, name) > 0.1

    def test_scale_and_shift_of_a_channel_do_not_matter(self, batches):
        """Clean layer and estimate are normalized in the same way."""
        side = batches.of(batches.clips("a a a a")).audio
        clean, error = torch.randn(2, *side.values.shape, generator=torch.Generator().manual_seed(0))
        scale, shift = torch.tensor([1.0, 2, 5, 0.5, 30, 4]), torch.tensor([0.0, 5, -3, 1, 2, 7])
        plain = LadderTrace((clean,), (clean + 0.2 * error,))
        other = LadderTrace(*(tuple(layer * scale + shift for layer in layers) for layers in plain))
        costs = [ladder_cost(ladder_moments(trace, side), (1.0,)) for trace in (plain, other)]
        torch.testing.assert_close(costs[0], costs[1], rtol=1e-4, atol=0)

    def test_a_channel_that_never_varies_does_not_drown_the_others(self, batches):
        side = batches.of(batches.clips("a a a a")).audio
        clean, noise = torch.randn(2, *side.values.shape, generator=torch.Generator().manual_seed(0))
        still = clean.clone()
        still[..., 0] = 0.7
        plain, one_still = (
            ladder_cost(ladder_moments(LadderTrace((layer,), (layer + 0.3 * noise,)), side), (1.0,))
            for layer in (clean, still)
        )
        assert plain < one_still < 30 * plain

    def test_clips_of_one_frame_have_a_cost(self, ladder_network, batches):
        clips = [replace(clip, video=clip.video[:1]) for clip in batches.clips("av v av v")]
        cost = cost_of(ladder_network(), batches.of(clips), "video")
        assert torch.isfinite(cost)
        assert cost > 0.01


class TestParts:
    @DETACHED
    @pytest.mark.parametrize("cuts", [(0, 5, 10), (0, 1, 1, 10), tuple(range(11))])
    def test_micro_batches_have_the_value_and_the_gradient_of_the_whole(
        self, ladder_network, batches, gradients, detached, cuts
    ):
        network, clips = ladder_network(detach_target=detached), batches.clips(CLIPS)
        for name in ("audio", "video"):
            network.zero_grad()
            whole = cost_of(network, batches.of(clips), name)
            whole.backward()
            expected = gradients(network)
            network.zero_grad()
            parts = [
                replace(batches.of(clips[start:end], fillers=1), place=torch.arange(start, end + 1))
                for start, end in itertools.pairwise(cuts)
            ]
            known = [ladder_moments(getattr(network(part, KEY).ladder, name), getattr(part, name)) for part in parts]
            together = {key: value.detach() for key, value in reduce(add_moments, known).items()}
            for local in known:
                loss = ladder_loss(together, local, WEIGHTS)
                torch.testing.assert_close(loss, whole.float(), rtol=1e-5, atol=0)
                loss.backward()
            for key, value in gradients(network).items():
                torch.testing.assert_close(value, expected[key], rtol=1e-3, atol=2e-5, msg=key)

    @DETACHED
    def test_padding_and_fillers_change_neither_value_nor_gradient(self, ladder_network, batches, gradients, detached):
        network, clips = ladder_network(detach_target=detached, lateral="both"), batches.clips(CLIPS)
        plain, crowded = batches.of(clips), batches.padded(batches.of(clips, fillers=3), 9, float("nan"))
        for name in ("audio", "video"):
            values = []
            for batch in (plain, crowded):
                network.zero_grad()
                values.append(cost_of(network, batch, name))
                values[-1].backward()
                values.append(gradients(network))
            torch.testing.assert_close(values[2], values[0], rtol=1e-5, atol=0)
            for key, value in values[1].items():
                torch.testing.assert_close(values[3][key], value, rtol=1e-3, atol=2e-5, msg=key)


class TestAbsentModality:
    @DETACHED
    @pytest.mark.parametrize("lateral", ["own", "other", "both", "none"])
    def test_the_encoder_of_an_absent_modality_gets_no_gradient(
        self, ladder_network, batches, gradients, detached, lateral
    ):
        network = ladder_network(detach_target=detached, lateral=lateral)
        for description, there, absent in (("a a? a", "audio", "video"), ("v v?", "video", "audio")):
            batch = batches.of(batches.clips(description), fillers=1)
            assert cost_of(network, batch, absent) == 0
            both = cost_of(network, batch, there) + cost_of(network, batch, absent)
            assert moved_by(network, gradients, both) == {f"{there}_path", "shared", f"ladder.{there}"}

    @DETACHED
    def test_clips_of_the_other_modality_leave_the_cost_unchanged(self, ladder_network, batches, detached):
        network, clips = (ladder_network(detach_target=detached, lateral="both"), batches.clips("a a? a v v? v"))
        for few, name in ((clips[:3], "audio"), (clips[3:], "video")):
            alone = replace(batches.of(few), place=torch.arange(3) + (3 if name == "video" else 0))
            torch.testing.assert_close(
                cost_of(network, alone, name), cost_of(network, batches.of(clips), name), rtol=1e-5, atol=0
            )

    def test_hiding_one_side_of_pairs_leaves_the_cost_of_the_other_where_nothing_crosses(self, ladder_network, batches):
        network, clips = ladder_network(lateral="own", top="own"), batches.clips(CLIPS)
        hidden = batches.of([replace(clip, video=None) for clip in clips])
        rows = [place for place, clip in enumerate(clips) if clip.audio is not None]
        assert len(rows) < len(clips)
        torch.testing.assert_close(
            cost_of(network, hidden, "audio"), cost_of(network, batches.of(clips), "audio"), rtol=1e-5, atol=0
        )

    def test_pairs_teach_the_other_encoder_through_the_top(self, ladder_network, batches, gradients):
        batch = batches.of(batches.clips("av av? av"))
        for top, moved in (("other", {"video_path"}), ("own", set())):
            network = ladder_network(top=top)
            found = moved_by(network, gradients, cost_of(network, batch, "audio"))
            assert found == {"audio_path", "shared", "ladder.audio"} | moved

    def test_a_batch_without_the_modality_costs_0_with_finite_gradients(self, ladder_network, batches, gradients):
        network = ladder_network(detach_target=False)
        for name in ("audio", "video"):
            cost = cost_of(network, batches.of([], fillers=2), name)
            assert cost == 0
            assert not moved_by(network, gradients, cost)
            assert all(torch.isfinite(value).all() for value in gradients(network).values())


def test_weight_0_trains_the_plain_noisy_classifier(ladder_network, batches, gradients):
    network, batch = ladder_network(detach_target=False), batches.of(batches.clips(CLIPS))
    settings = ObjectiveSettings(ladder=LadderSettings(weight=0), hgr=HgrSettings())
    objective = Objective(ClassTask(classes=("calm", "glad", "mad")), settings, WEIGHTS, 1, rows=0)

    def gradients_of(output) -> dict[str, torch.Tensor]:
        network.zero_grad()
        local = objective.moments(output, batch, None)
        together = {name: value.detach() for name, value in local.items()}
        parts = objective.parts(output, batch, local, together, None)
        assert ("ladder/audio" in parts) == (output.ladder is not None)
        sum(objective.weighted(parts, 0).values()).backward()
        return gradients(network)

    with_ladder = gradients_of(network(batch, KEY))
    plain = gradients_of(network(batch, KEY)._replace(ladder=None))
    clean = gradients_of(network(batch))
    for name, value in with_ladder.items():
        assert torch.equal(value, plain[name]), name
        assert value.any() != name.startswith("ladder."), name
    assert not torch.equal(clean["shared.norm.weight"], plain["shared.norm.weight"])


def test_moments_ignore_rows_that_only_fill_up():
    values = torch.ones(2, 1, 3)
    side = ModalityBatch(values, torch.ones(2, 1, dtype=torch.bool), torch.arange(2), torch.tensor([1.0, 0.0]))
    moments = ladder_moments(LadderTrace((values,), (values + 1,)), side)
    assert moments["clips"] == moments["frames"] == 1
    assert moments["0/error"].tolist() == moments["0/clean"][0].tolist() == [1, 1, 1]
