"""A training run that dies at a step, as a kill looks from inside."""

from __future__ import annotations

import itertools

from torch import Tensor

from vavl.training.engine import Engine


class Killed(BaseException):
    """What a kill looks like from inside: no handler of the platform sees it."""


def dying(engine: Engine, steps: int) -> Engine:
    """Let an engine die at its n-th step."""
    calls, real_step = itertools.count(1), engine.step

    def step(learning_rate: float) -> Tensor:
        if next(calls) == steps:
            raise Killed
        return real_step(learning_rate)

    engine.step = step
    return engine
