"""An objective of another distribution: the worked example of the README, installed as pip would."""

from __future__ import annotations

from functools import reduce

import pytest
import torch
from plugin_distributions import install_plugin

from vavl.config.load import validate
from vavl.errors import ConfigError
from vavl.models.draws import DrawKey
from vavl.models.settings import ClassTask
from vavl.objectives.moments import add_moments
from vavl.objectives.settings import ObjectiveSettings
from vavl.objectives.total import Objective
from vavl.training.loop import train
from vavl.training.run import prepare_run

GIVEN = {"plugins": {"agreement": {"weight": 0.5, "temperature": 2, "start_step": 1}}}


@pytest.fixture(autouse=True)
def _installed(tmp_path, monkeypatch):
    install_plugin(tmp_path / "site", monkeypatch, "vavl.objectives", "agreement_loss", "agreement")


def value_of(network, micro_batches, settings):
    """Return the sum of the plug-in's part over micro-batches, as a training step makes it."""
    objective = Objective(ClassTask(classes=("a", "b", "c")), settings, (1.0,), len(micro_batches), rows=0)
    assert objective.needs_output_moments
    outputs = [network(batch, DrawKey(0, 0)) for batch in micro_batches]
    sums = [objective.moments(one, batch, None) for one, batch in zip(outputs, micro_batches, strict=True)]
    total = {name: value.detach() for name, value in reduce(add_moments, sums).items()}
    return sum(
        objective.parts(output, batch, local, total, None)["agreement"]
        for output, batch, local in zip(outputs, micro_batches, sums, strict=True)
    )


def test_the_test_of_the_example_passes_and_can_fail(monkeypatch):
    import agreement_loss

    agreement_loss.test_heads_that_agree_cost_nothing()
    monkeypatch.setattr(agreement_loss, "loss", lambda *_: torch.tensor(0.1))
    with pytest.raises(AssertionError):
        agreement_loss.test_heads_that_agree_cost_nothing()


def test_micro_batches_with_other_numbers_of_pairs_give_value_and_gradient_of_the_pooled_batch(
    tiny_network, batches, gradients
):
    settings, clips = ObjectiveSettings.model_validate(GIVEN), batches.clips("av a av? v av a av av?")
    network = tiny_network()
    found = []
    for parts in ([clips], [clips[:1], clips[1:3], clips[3:]]):
        network.zero_grad()
        value = value_of(network, [batches.of(part, fillers=1) for part in parts], settings)
        value.backward()
        found.append((value.detach(), gradients(network)))
    (pooled, by_pooled), (summed, by_summed) = found
    assert pooled > 0
    torch.testing.assert_close(summed, pooled)
    torch.testing.assert_close(by_summed, by_pooled)
    moved = {name.partition(".")[0] for name, value in by_pooled.items() if value.abs().max() > 0}
    assert moved == {"audio_path", "video_path", "shared"}


def test_a_run_trains_with_it_and_a_resumed_one_repeats_itself(plan, train_from):
    made = plan(objectives=GIVEN, training={"max_steps": 6, "clips_per_forward": 5, "checkpoint_every_steps": 1})
    _, _, _, whole = train_from(made)
    steps = [record["metrics"] for record in whole.of("step")]
    assert [one["train/weight/agreement"] for one in steps[:2]] == [0, 0.5]
    assert all(one["train/loss/agreement"] > 0 for one in steps)
    other = plan("other", objectives=GIVEN, training=made.training.model_dump())
    train_from(other, die_at=4)
    _, start, _, rest = train_from(other)
    assert start.step > 0
    assert rest.losses() == whole.losses()[start.step :]


def test_it_counts_for_the_hash_of_a_configuration_and_none_changes_no_hash(plan):
    plain, same = plan(), plan(objectives={"plugins": {"agreement": None}})
    assert plain.config_hash == same.config_hash
    with_it = plan(objectives=GIVEN)
    assert with_it.model_dump(mode="json")["objectives"]["plugins"]["agreement"]["temperature"] == 2
    hotter = plan(objectives={"plugins": {"agreement": {"weight": 0.5, "temperature": 3, "start_step": 1}}})
    assert len({plain.config_hash, with_it.config_hash, hotter.config_hash}) == 3
    assert type(with_it).model_validate(with_it.model_dump(mode="json")) == with_it
    assert with_it.objectives.in_words()[-1] == "agreement x 0.5 (from step 1)"


@pytest.mark.parametrize(
    ("plugins", "message"),
    [
        ({"agrement": {}}, r"objectives.plugins: .*did you mean `agreement`\?; .*\(vavl.objectives\): agreement \(own"),
        ({"agreement": {"temprature": 2}}, r"agreement.temprature: unknown key; did you mean `temperature`\?"),
        ({"agreement": {"temperature": 0}}, r"plugins.agreement.temperature: Input should be greater than 0"),
        ({"agreement": {"weight": -1}}, r"plugins.agreement.weight: Input should be greater than or equal to 0"),
        ({"hgr": {}}, r"`hgr` is an objective of vavl: write objectives.hgr"),
        ({"agreement": 3}, r"plugins.agreement: Input should be a valid dictionary"),
    ],
)  # fmt: skip
def test_wrong_settings_are_named(plan, plugins, message):
    content = {**plan().model_dump(mode="json"), "objectives": {"plugins": plugins}}
    with pytest.raises(ConfigError, match=message):
        validate(type(plan()), content, "own.yaml")


def test_all_that_stand_in_one_plan_are_trained(plan, records):
    both = plan(objectives={**GIVEN, "hgr": {"weight": 0.1}}, training={"max_steps": 1})
    run, seen = prepare_run(both), records()
    train(run, run.start, seen)
    assert {"train/loss/agreement", "train/loss/hgr/audio_video"} <= seen.of("step")[0]["metrics"].keys()
