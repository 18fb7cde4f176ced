"""Which checks of a device there are."""

from __future__ import annotations

from itertools import product
from typing import Any

from gpu_checks import CORE, DEEPSPEED, PSUTIL, RAY, Call, Case, Check

PRECISIONS, STAGES = ("fp32", "bf16"), (0, 1, 2, 3)
TORCH = [Case(precision=precision) for precision in PRECISIONS]
ZERO = [Case("deepspeed", stage, precision) for stage, precision in product(STAGES, PRECISIONS)]
PAIRS = [Case(workers=2), *(Case("deepspeed", stage, "bf16", 2) for stage in STAGES)]
_CHAIN = (Case(), *(Case("deepspeed", stage) for stage in STAGES), Case())
_QUICK = {Case(), Case("deepspeed", 3, "bf16"), Case("deepspeed", 3, "bf16", 2)}
"""Training runs that even a quick check does through Ray."""
DEMO, PAPER = "demo", "paper"


def all_checks() -> list[Check]:
    """Return every check, in the order in which they run."""
    return [*_of_groups(), *_in_process(), *_on_ray()]


def _of_groups() -> list[Check]:
    module = "checks_of_groups"
    return [
        Check("collectives, one rank", "groups", Call(module, "check_one_rank")),
        Check("collectives, two ranks", "groups", Call(module, "check_two_ranks"), where="gpus"),
        Check("a group for CUDA alone", "groups", Call(module, "check_group_of_cuda_alone"), where="cpu"),
    ]


def _in_process() -> list[Check]:
    module = "checks_in_process"
    checks = [Check("step on the meta device", "torch", Call(module, "check_meta"))]
    for group, cases in (("torch", TORCH), ("deepspeed", ZERO)):
        for case in cases:
            curve = Call(module, "check_curve", (case,))
            checks.append(Check(f"training, {case.name}", group, curve, _needs(case)))
        for case in [case for case in cases if case.zero_stage in (0, 3)]:
            speed, paper = (Call(module, "check_speed", (case, size)) for size in (DEMO, PAPER))
            name = f"speed at the paper's size, {case.name}"
            checks.append(Check(f"speed, {case.name}", group, speed, _needs(case)))
            checks.append(Check(name, group, paper, _needs(case), where="gpu", is_long=True))
    chain = Call(module, "check_round_trip", (_CHAIN,))
    checks.append(Check("checkpoint through all engines", "deepspeed", chain, _needs(*_CHAIN)))
    for case in (Case(), Case("deepspeed", 2, "bf16")):
        killed = Call(module, "check_kill", (case,))
        checks.append(Check(f"resume after kill -9, {case.name}", "killed", killed, _needs(case)))
    return checks


def _on_ray() -> list[Check]:
    def check(title: str, function: str, case: Case, **more: Any) -> Check:
        call = Call("checks_on_ray", function, (case,))
        return Check(f"{title}, {case.name}", "ray", call, (*_needs(case), RAY, PSUTIL), **more)

    sharded, logical = Case("deepspeed", 3), Case("deepspeed", 1)
    cases = [*TORCH, *ZERO, *PAIRS]
    return [
        *(
            check(
                "on Ray", "check_training", case,
                where="gpus" if case.workers > 1 else "anywhere", is_long=case not in _QUICK,
            )
            for case in cases
        ),
        check("kill -9 of a worker of Ray", "check_killed_worker", sharded),
        check("kill -9 of the driver on Ray", "check_killed_driver", sharded, is_long=True),
        Check("logical GPUs of Ray", "logical GPUs", Call("checks_on_ray", "check_logical_gpus", (logical,)),
              (*_needs(logical), RAY, PSUTIL), where="cpu", is_long=True),
    ]  # fmt: skip


def _needs(*cases: Case) -> tuple[str, ...]:
    return (*CORE, DEEPSPEED) if any(case.engine == "deepspeed" for case in cases) else CORE
