"""Audio and video of a clip should say the same: squared distance of their probabilities, labeled or not."""

from types import SimpleNamespace

import torch
from pydantic import Field

from vavl.objectives.settings import ObjectivePlugin, ScheduledSettings


class AgreementSettings(ScheduledSettings):  # brings weight, start_step and ramp_steps
    temperature: float = Field(1.0, gt=0, description="of both predictions; above 1 they are softer")


def moments(settings, output, batch):
    """Sum over the pairs of a micro-batch; gradient goes to both heads."""

    def of_clips(clips, path):
        rows = torch.softmax(path.logits.float() / settings.temperature, dim=-1)
        return rows.new_zeros(batch.clips, rows.shape[1]).index_copy(0, clips.clip, rows)

    distance = of_clips(batch.audio, output.audio) - of_clips(batch.video, output.video)
    is_pair = batch.has_audio * batch.has_video  # 0 for a row that only fills up
    return {"total": (is_pair * distance.square().sum(-1)).sum(), "pairs": is_pair.sum()}


def loss(settings, moments):
    """Return the mean over the pairs of the global batch; 0 without any."""
    return moments["total"] / moments["pairs"].clamp_min(1)


agreement = ObjectivePlugin(AgreementSettings, moments, loss)


def test_heads_that_agree_cost_nothing():
    side, ones = SimpleNamespace(clip=torch.arange(2), logits=torch.eye(2)), torch.ones(2)
    batch = SimpleNamespace(clips=2, audio=side, video=side, has_audio=ones, has_video=ones)
    assert loss(None, moments(AgreementSettings(), SimpleNamespace(audio=side, video=side), batch)) == 0
