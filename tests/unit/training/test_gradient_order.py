"""Gradients come in one order whatever the clips are: ZeRO 2 adds them over the ranks as they come."""

from __future__ import annotations

from vavl.training.loop import train_step
from vavl.training.run import prepare_run

EVERY_OBJECTIVE = {
    "hgr": {"weight": 0.5, "audio_video": 0.3},
    "ladder": {"weight": 0.3, "lateral": "both", "detach_target": False},
    "pseudo_label": {"weight": 0.5, "teacher": "average"},
}
STEPS = 12
# Audio of 3 to 5 frames, video of 1 or 2.
MIXED = {"without_audio": (0,), "without_video": (1,), "without_label": (1, 2), "max_frames": 5}


def test_parameters_get_their_gradients_in_one_order(plan):
    """Micro-batches of one and two clips: some lack a modality, some have a single frame."""
    chosen = plan(corpus=MIXED, objectives=EVERY_OBJECTIVE, training={"clips_per_forward": 2, "average_decay": 0.8})
    run = prepare_run(chosen)
    order: list[str] = []
    for name, parameter in run.engine.network.named_parameters():
        parameter.register_post_accumulate_grad_hook(lambda _, name=name: order.append(name))
    frames, teacher_mean = set(), run.start.teacher_mean
    for step in range(STEPS):
        batches = run.loader.load(step)
        frames |= {min(batch.video.is_real.shape[1], 2) for batch in batches}
        teacher_mean = train_step(run, step, batches, teacher_mean).teacher_mean
    names = len(list(run.engine.network.named_parameters()))
    assert len(order) == names * STEPS * 5
    orders = {tuple(order[start : start + names]) for start in range(0, len(order), names)}
    assert frames == {1, 2}  # single frames and more: else this would show nothing
    assert len(orders) == 1
