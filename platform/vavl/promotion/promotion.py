"""A promotion from the two addresses to the alias: compare, decide, record; and the way back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from vavl.config.addresses import absolute_store
from vavl.config.files import make_folder, write_json
from vavl.errors import PromotionError
from vavl.models.saved_model import SavedModel, load_model
from vavl.promotion.champion import Throne
from vavl.promotion.contest import check_metrics, judge
from vavl.promotion.promotion_record import ComparedClips, Decision
from vavl.promotion.promotion_run import PromotionRun, earlier_decisions, open_promotion_run
from vavl.promotion.report import write_pages
from vavl.promotion.same_clips import SameClips, open_same_clips, predict_same_clips
from vavl.promotion.settings import PromotionPlan
from vavl.serving.model_address import ResolvedModel, check_store, resolve_model, told_as_ours
from vavl.tracking.mlflow_writer import open_client
from vavl.tracking.settings import TrackingPlace, tracking_place

EVIDENCE_FILE = "evidence.json"


@dataclass(frozen=True)
class Registry:
    """The registry of one promotion.

    Attributes:
        place: the store.
        throne: the aliases of the model.
    """

    place: TrackingPlace
    throne: Throne


@dataclass(frozen=True)
class Contest:
    """Two models and the clips that they are compared on.

    Attributes:
        challenger: the version that wants the place.
        champion: the version that has it; None while there is none, or while the challenger has it.
        models: by title, the challenger first.
        clips: of both.
    """

    challenger: ResolvedModel
    champion: ResolvedModel | None
    models: Mapping[str, SavedModel]
    clips: SameClips


def open_registry(plan: PromotionPlan) -> Registry:
    """Connect to the registry of the model.

    Raises:
        InputError: there is no such model.
        TrackingError: the store does not answer.
    """
    place = tracking_place(plan.tracking, os.environ)
    check_store(place, plan.tracking.request_timeout_seconds)
    throne = Throne(
        open_client(plan.tracking, place), plan.model_name, plan.champion_alias, plan.previous_alias
    )
    return Registry(place, throne)


def open_contest(plan: PromotionPlan, registry: Registry) -> Contest:
    """Find both models and the clips, and check that they can be compared; nothing is predicted.

    Raises:
        InputError, StoreError, ConfigError: names what does not fit.
        TrackingError: the store does not answer or refused.
    """
    assert plan.data is not None
    challenger = resolve_model(plan.challenger, plan.tracking)
    with told_as_ours(registry.place):
        version = registry.throne.champion()
    champion = None
    if version is not None and version != challenger.version:
        champion = resolve_model(f"models:/{plan.model_name}/{version}", plan.tracking)
    models = {entry.title: load_model(entry.folder) for entry in (challenger, champion) if entry is not None}
    check_metrics(plan.rule, models[challenger.title].description.task)
    return Contest(challenger, champion, models, open_same_clips(models, plan.data))


def check_promotion(plan: PromotionPlan) -> None:
    """Check all that a promotion or a rollback needs, without measuring or moving anything."""
    make_folder(plan.output_dir)
    registry = open_registry(plan)
    if not plan.rollback:
        open_contest(plan, registry)
        return
    with told_as_ours(registry.place):
        registry.throne.way_back()


def promote(plan: PromotionPlan) -> Decision:
    """Compare the challenger with the champion, and move the alias if the rule holds.

    What was measured is written to MLflow before the alias moves.

    Returns:
        The decision; ``evidence.json``, ``report.html`` and pictures lie in ``output_dir``.
    """
    registry = open_registry(plan)
    contest = open_contest(plan, registry)
    decision = _compared(plan, registry, contest)
    if decision.what == "already_champion":
        return decision
    with told_as_ours(registry.place):
        run = _open_run(plan, registry, decision)
    decision = replace(decision, mlflow_run_id=run.run_id)
    try:
        evidence = _write_evidence(plan.output_dir, decision)
        with told_as_ours(registry.place):
            run.log_verdict(decision, [evidence])
            decision = _decided(registry.throne, decision)
    except BaseException:
        run.fail()
        raise
    evidence = _write_evidence(plan.output_dir, decision)
    run.close(decision, [evidence, *write_pages(plan, contest.clips, decision)])
    return decision


def roll_back(plan: PromotionPlan) -> Decision:
    """Return to the champion before this one; both versions say so."""
    registry = open_registry(plan)
    throne = registry.throne
    with told_as_ours(registry.place):
        left, champion = throne.roll_back()
        decision = Decision(
            "rolled_back", plan.model_name, plan.champion_alias, left, None, champion, throne.previous()
        )
        throne.record(left, decision.as_tag())
        throne.record(champion, replace(decision, what="restored").as_tag())
    return decision


def _compared(plan: PromotionPlan, registry: Registry, contest: Contest) -> Decision:
    """Let both predict, and apply the rule; nothing is moved."""
    throne, challenger, champion = registry.throne, contest.challenger, contest.champion
    assert challenger.version is not None
    with told_as_ours(registry.place):
        decision = Decision(
            "promoting", plan.model_name, plan.champion_alias, challenger.version,
            champion.version if champion else None, throne.champion(), throne.previous(),
            rule=plan.rule.model_dump(mode="json"),
        )  # fmt: skip
    if decision.champion == challenger.version:
        return replace(decision, what="already_champion", compared_with=challenger.version)
    contestants = predict_same_clips(contest.models, contest.clips)
    verdict = judge(
        contestants[challenger.title],
        contestants[champion.title] if champion else None,
        contest.clips.speakers,
        contest.models[challenger.title].description.task,
        plan.rule,
    )
    with told_as_ours(registry.place):
        clips = _compared_clips(plan, throne.client, contest.clips)
    return replace(decision, verdict=verdict, reasons=verdict.reasons, clips=clips)


def _decided(throne: Throne, decision: Decision) -> Decision:
    """Move the alias if the rule holds and the champion is still the one that was compared; record it."""
    assert decision.verdict is not None
    if decision.verdict.holds:
        try:
            # A process that is killed from here on leaves a version that says what was going on.
            throne.record(decision.version, decision.as_tag())
            throne.crown(decision.version, decision.compared_with)
            decision = replace(
                decision, what="promoted", champion=decision.version, previous=throne.previous()
            )
        except PromotionError as fault:
            reasons = (f"{fault.problem}: {fault.fix}",)
            decision = replace(decision, what="compare_again", reasons=reasons, champion=throne.champion())
    else:
        decision = replace(decision, what="refused")
    throne.record(decision.version, decision.as_tag())
    return decision


def _open_run(plan: PromotionPlan, registry: Registry, decision: Decision) -> PromotionRun:
    assert decision.clips is not None
    against = f"version {decision.compared_with}" if decision.compared_with else "no champion"
    title = f"promotion: {plan.model_name} version {decision.version} against {against}"
    return open_promotion_run(
        registry.throne.client, registry.place, plan.tracking, plan, decision.clips, title
    )


def _compared_clips(plan: PromotionPlan, client: Any, clips: SameClips) -> ComparedClips:
    assert plan.data is not None
    first = clips.first
    manifest = first.collection.manifest
    return ComparedClips(
        manifest.corpus, manifest.protocol, first.fold, plan.data.split, str(absolute_store(plan.data.store)),
        str(first.collection.store.content["store_hash"]), clips.hash, len(first.rows), len(set(clips.speakers)),
        earlier_decisions(client, plan.tracking.experiment, clips.hash),
    )  # fmt: skip


def _write_evidence(folder: Path, decision: Decision) -> Path:
    write_json(folder / EVIDENCE_FILE, decision.as_dict())
    return folder / EVIDENCE_FILE
