"""Contrast of the modalities: the audio of a clip is nearer to its own video than to that of other clips, and back.

InfoNCE (van den Oord et al. 2018), in both directions as in CLIP (Radford et al. 2021), over all pairs i, j of the
global batch, with embeddings a, v of length 1:

    loss = 1/2 mean_i [-log softmax_j(a_i v_j / tau)]_i + 1/2 mean_i [-log softmax_j(v_i a_j / tau)]_i

The loss depends on all embeddings, not on sums over clips. Yet their matrix is such a sum: every part fills in the rows
of its own clips and leaves zeros elsewhere. So adding up parts gathers it, and with ``linked_moments`` each part has
the gradient of its own rows.

Gradient goes to both modalities.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from vavl.data.batch import ClipBatch
from vavl.metrics.names import AUDIO, VIDEO
from vavl.objectives.moments import Moments, linked_moments


def contrastive_moments(audio: Tensor, video: Tensor, batch: ClipBatch, rows: int) -> dict[str, Tensor]:
    """Put the embeddings of a micro-batch's pairs at their places of the global batch.

    Args:
        audio: (clips with audio, K), of any length.
        video: (clips with video, K).
        batch: the micro-batch.
        rows: of the global batch, fillers included.

    Returns:
        Float64: ``pairs`` (rows,), 1 where there is one, and the embeddings ``audio`` and ``video`` (rows, K), made
        of length 1; zeros where another part has the clip or a modality is missing.
    """
    is_pair = batch.has_audio * batch.has_video
    found = {"pairs": is_pair.new_zeros(rows, dtype=torch.float64).index_add(0, batch.place, is_pair.double())}
    with torch.autocast(audio.device.type, enabled=False):
        for name, clips, embedding in ((AUDIO, batch.audio, audio), (VIDEO, batch.video, video)):
            counts = (clips.weight * is_pair[clips.clip]).unsqueeze(-1) > 0
            unit = functional.normalize(torch.where(counts, embedding.double(), 0.0), dim=-1)
            everywhere = unit.new_zeros(rows, unit.shape[1])
            found[name] = everywhere.index_add(0, batch.place[clips.clip], unit)
    return found


def contrastive_loss(global_moments: Moments, local_moments: Moments, temperature: float) -> Tensor:
    """Return the loss of the global batch, with the local part's gradient; 0 with fewer than two pairs.

    Args:
        global_moments: of ``contrastive_moments``, summed over everything that belongs together.
        local_moments: of the part at hand.
        temperature: tau; the smaller, the more the nearest other clips count.
    """
    joined = linked_moments(global_moments, local_moments)
    is_pair = joined["pairs"] > 0
    alike = joined[AUDIO] @ joined[VIDEO].T / temperature
    # Finite, as a row without any pair would be NaN otherwise.
    lowest = torch.finfo(alike.dtype).min
    clip_by_clip = sum(
        torch.diagonal(functional.log_softmax(one.masked_fill(~is_pair, lowest), dim=-1)) for one in (alike, alike.T)
    )
    return (-torch.where(is_pair, clip_by_clip, 0.0).sum() / (2 * joined["pairs"].sum().clamp_min(1))).float()
