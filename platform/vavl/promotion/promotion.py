"""A promotion from the two addresses to the alias: compare, decide, record, move; and the rollback.

MLflow sets an alias without asking what it was. So whoever moves it announces it first, in a tag of a version, and
looks for others who did: of two at the same moment at most one continues. The alias is read before and after the move.

The alias is what people load. The list of champions, oldest first, is a tag of the registered model: a
rollback walks it backwards. An alias that was moved by hand, or a process that was killed between two
writes, leaves a list that does not end with the champion; it is read up to the champion then.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from vavl.config.addresses import absolute_store
from vavl.config.files import make_directory, write_json
from vavl.errors import InputError, PromotionError
from vavl.models.saved_model import SavedModel, load_model
from vavl.promotion.contest import SameClips, check_metrics, judge, open_same_clips, predict_same_clips
from vavl.promotion.decision import ComparedClips, Decision, earlier_decisions, open_promotion_run
from vavl.promotion.report import write_pages
from vavl.promotion.settings import PromotionPlan
from vavl.serving.model_address import ResolvedModel, check_store, resolve_model, told_as_ours
from vavl.tracking.mlflow_writer import if_there, one_line, open_client
from vavl.tracking.settings import tracking_place

_log = logging.getLogger(__name__)

EVIDENCE_FILE = "evidence.json"
PROMOTION_TAG = "vavl.promotion"
_HISTORY_TAG = "vavl.champions."
_MOVING_TAG = "vavl.alias_moves"
_MOST_CHAMPIONS = 100
_LEFT_BEHIND_SECONDS = 600.0
"""An announcement that is older was left by a process that was killed; moving an alias takes a second."""


@dataclass(frozen=True)
class ModelAliases:
    """The aliases of one registered model."""

    client: Any  # an `MlflowClient`
    model: str  # registered model
    alias: str  # of the champion
    previous_alias: str  # of the version that a rollback returns to

    def champion(self) -> str | None:
        """Return the version that is champion now, None while there is none."""
        version = self._registered().aliases.get(self.alias)
        return None if version is None else str(version)

    def champions(self) -> list[str]:
        """Return the versions that were champion, oldest first; the last one is champion now."""
        model = self._registered()
        listed = [str(version) for version in json.loads(model.tags.get(f"{_HISTORY_TAG}{self.alias}", "[]"))]
        if self.alias not in model.aliases:
            return []
        now = str(model.aliases[self.alias])
        return _up_to(listed, now) if now in listed else [*listed, now]

    def previous(self) -> str | None:
        """Return the last champion before this one whose version is still there."""
        return self._last_of(self.champions()[:-1])

    def move_to(self, version: str, compared_with: str | None) -> None:
        """Make ``version`` champion, if the champion is still the one that it was compared with.

        Raises:
            PromotionError: the champion has changed meanwhile, or somebody else moves the alias now.
        """
        with self._moving(version):
            now = self.champion()
            if now != compared_with:
                problem = f"is version {now or 'none'} now, the challenger was compared with {compared_with or 'none'}"
                raise self._conflict(problem)
            champions = [*self.champions(), version]
            # A process that dies before the alias has moved leaves a list that is read up to the champion.
            self._list(champions)
            self._point(champions)

    def after_rollback(self) -> list[str]:
        """Return the champions as they are after a rollback, oldest first.

        Raises:
            InputError: there is no champion, or none before it.
        """
        champions, previous = self.champions(), self.previous()
        if not champions or previous is None:
            problem = f"version {champions[-1]} is the first champion" if champions else "there is no champion"
            fix = "promote another version first: there is none to roll back to"
            raise InputError(f"models:/{self.model}@{self.alias}", "rollback", problem, fix)
        return _up_to(champions[:-1], previous)

    def roll_back(self) -> tuple[str, str]:
        """Return to the champion before this one.

        Returns:
            The version that leaves and the one that is champion again.

        Raises:
            InputError: see ``after_rollback``.
            PromotionError: somebody else moves the alias now.
        """
        target = self.after_rollback()[-1]
        with self._moving(target):
            left, kept = self.champion(), self.after_rollback()
            assert left is not None
            if kept[-1] != target:
                raise self._conflict(f"was moved to version {left} by somebody else at the same moment")
            self._point(kept)
            self._list(kept)
        return left, kept[-1]

    def record(self, version: str, decision: str) -> None:
        """Write a decision on a version."""
        self.client.set_model_version_tag(self.model, version, PROMOTION_TAG, decision)

    @contextmanager
    def _moving(self, version: str) -> Iterator[None]:
        """Let the alias move to ``version`` within the block.

        Raises:
            PromotionError: somebody else moves it, too.
        """
        self.client.set_model_version_tag(self.model, version, _MOVING_TAG, repr(time.time()))
        try:
            for other in self.client.search_model_versions(f"name = '{self.model}'"):
                since = time.time() - float(other.tags.get(_MOVING_TAG, 0))
                if str(other.version) != version and since < _LEFT_BEHIND_SECONDS:
                    raise self._conflict(f"is being moved to version {other.version} at this moment")
            yield
            now = self.champion()
            if now != version:
                raise self._conflict(f"was moved to version {now or 'none'} by somebody else at the same moment")
        finally:
            self._withdraw(version)

    def _withdraw(self, version: str) -> None:
        """Remove the announcement; a store that is away now does not change what was decided, or why it failed."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_model_version_tag(self.model, version, _MOVING_TAG)
        except MlflowException as error:
            _log.error(
                "%s of %s version %s stays for ten minutes: %s", _MOVING_TAG, self.model, version, one_line(error)
            )

    def _conflict(self, problem: str) -> PromotionError:
        return PromotionError(
            f"models:/{self.model}@{self.alias}", "", problem, "compare again: start the same command"
        )

    def _registered(self) -> Any:
        model = if_there(lambda: self.client.get_registered_model(self.model))
        if model is None:
            name, fix = f"models:/{self.model}", "check the name and tracking.uri"
            raise InputError(name, "", "there is no such registered model", fix)
        return model

    def _list(self, champions: Sequence[str]) -> None:
        listed = json.dumps([*champions][-_MOST_CHAMPIONS:])
        self.client.set_registered_model_tag(self.model, f"{_HISTORY_TAG}{self.alias}", listed)

    def _point(self, champions: Sequence[str]) -> None:
        """Let the aliases point to the last of ``champions`` and to the last one before it."""
        self.client.set_registered_model_alias(self.model, self.alias, champions[-1])
        previous = self._last_of(champions[:-1])
        if previous is None:
            self.client.delete_registered_model_alias(self.model, self.previous_alias)
        else:
            self.client.set_registered_model_alias(self.model, self.previous_alias, previous)

    def _last_of(self, versions: Sequence[str]) -> str | None:
        """Return the last of ``versions`` that was not deleted from the registry."""
        for version in reversed(versions):
            if if_there(partial(self.client.get_model_version, self.model, version)) is not None:
                return version
        return None


def _up_to(versions: Sequence[str], last: str) -> list[str]:
    """Cut a list after the last place of ``last`` in it."""
    return [*versions][: len(versions) - [*versions][::-1].index(last)]


@dataclass(frozen=True)
class Contest:
    """Two models and the clips that they are compared on."""

    challenger: ResolvedModel  # the version that wants the place
    champion: ResolvedModel | None  # the version that has it; None while there is none, or while the challenger has it
    models: Mapping[str, SavedModel]  # by title, the challenger first
    clips: SameClips  # of both


def open_aliases(plan: PromotionPlan) -> ModelAliases:
    """Connect to the registry of the model.

    Raises:
        TrackingError: the store does not answer.
    """
    place = tracking_place(plan.tracking, os.environ)
    check_store(plan.tracking)
    with told_as_ours(place):
        client = open_client(plan.tracking, place)
        return ModelAliases(client, plan.model_name, plan.champion_alias, plan.previous_alias)


def _refusals_of(plan: PromotionPlan) -> AbstractContextManager[None]:
    """Turn what the store refuses into an error with a place and a fix."""
    return told_as_ours(tracking_place(plan.tracking, os.environ))


def open_contest(plan: PromotionPlan, aliases: ModelAliases) -> Contest:
    """Find both models and the clips, and check that they can be compared; nothing is predicted.

    Raises:
        InputError, StoreError, ConfigError: names what does not fit.
        TrackingError: the store does not answer or refused.
    """
    assert plan.data is not None
    challenger = resolve_model(plan.challenger, plan.tracking)
    with _refusals_of(plan):
        version = aliases.champion()
    champion = None
    if version is not None and version != challenger.version:
        champion = resolve_model(f"models:/{plan.model_name}/{version}", plan.tracking)
    models = {entry.title: load_model(entry.directory) for entry in (challenger, champion) if entry is not None}
    check_metrics(plan.rule, models[challenger.title].description.task)
    return Contest(challenger, champion, models, open_same_clips(models, plan.data))


def check_promotion(plan: PromotionPlan) -> None:
    """Check all that a promotion or a rollback needs, without measuring or moving anything."""
    make_directory(plan.output_dir)
    aliases = open_aliases(plan)
    if not plan.rollback:
        open_contest(plan, aliases)
        return
    with _refusals_of(plan):
        aliases.after_rollback()


def promote(plan: PromotionPlan) -> Decision:
    """Compare the challenger with the champion, and move the alias if the rule holds.

    What was measured is written to MLflow before the alias moves.

    Returns:
        The decision; ``evidence.json``, ``report.html`` and plots lie in ``output_dir``.
    """
    aliases = open_aliases(plan)
    contest = open_contest(plan, aliases)
    decision = _compared(plan, aliases, contest)
    if decision.what == "already_champion":
        return decision
    against = f"version {decision.compared_with}" if decision.compared_with else "no champion"
    title = f"promotion: {plan.model_name} version {decision.version} against {against}"
    assert decision.clips is not None
    with _refusals_of(plan):
        run = open_promotion_run(plan.tracking, plan, decision.clips, title)
    decision = replace(decision, mlflow_run_id=run.run_id)
    try:
        evidence = _write_evidence(plan.output_dir, decision)
        with _refusals_of(plan):
            run.log_verdict(decision, [evidence])
            decision = _decided(aliases, decision)
    except BaseException:
        run.fail()
        raise
    evidence = _write_evidence(plan.output_dir, decision)
    run.close(decision, [evidence, *write_pages(decision, contest.clips.unknown, plan.output_dir)])
    return decision


def roll_back(plan: PromotionPlan) -> Decision:
    """Return to the champion before this one; both versions say so."""
    aliases = open_aliases(plan)
    with _refusals_of(plan):
        left, champion = aliases.roll_back()
        decision = Decision(
            "rolled_back", plan.model_name, plan.champion_alias, left, None, champion, aliases.previous()
        )
        aliases.record(left, decision.as_tag())
        aliases.record(champion, replace(decision, what="restored").as_tag())
    return decision


def _compared(plan: PromotionPlan, aliases: ModelAliases, contest: Contest) -> Decision:
    """Let both predict, and apply the rule; nothing is moved."""
    challenger, champion = contest.challenger, contest.champion
    assert challenger.version is not None
    about, now = (plan.model_name, plan.champion_alias, challenger.version), champion.version if champion else None
    rule = plan.rule.model_dump(mode="json")
    with _refusals_of(plan):
        decision = Decision("promoting", *about, now, aliases.champion(), aliases.previous(), rule=rule)
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
    with _refusals_of(plan):
        clips = _compared_clips(plan, aliases.client, contest.clips)
    return replace(decision, verdict=verdict, reasons=verdict.reasons, clips=clips)


def _decided(aliases: ModelAliases, decision: Decision) -> Decision:
    """Move the alias if the rule holds and the champion is still the one that was compared; record it."""
    assert decision.verdict is not None
    if decision.verdict.holds:
        try:
            # A process that is killed from here on leaves a version that says what was going on.
            aliases.record(decision.version, decision.as_tag())
            aliases.move_to(decision.version, decision.compared_with)
            decision = replace(decision, what="promoted", champion=decision.version, previous=aliases.previous())
        except PromotionError as error:
            reasons = (f"{error.problem}: {error.fix}",)
            decision = replace(decision, what="compare_again", reasons=reasons, champion=aliases.champion())
    else:
        decision = replace(decision, what="refused")
    aliases.record(decision.version, decision.as_tag())
    return decision


def _compared_clips(plan: PromotionPlan, client: Any, clips: SameClips) -> ComparedClips:
    assert plan.data is not None
    first = clips.first
    manifest = first.collection.manifest
    store = str(absolute_store(plan.data.store)), str(first.collection.store.content["store_hash"])
    sizes = len(first.rows), len(set(clips.speakers))
    before = earlier_decisions(client, plan.tracking.experiment, clips.hash)
    named = manifest.corpus, manifest.protocol, first.fold, plan.data.split
    return ComparedClips(*named, *store, clips.hash, *sizes, before)


def _write_evidence(directory: Path, decision: Decision) -> Path:
    write_json(directory / EVIDENCE_FILE, decision.as_dict())
    return directory / EVIDENCE_FILE
