"""Who is champion of a registered model, who was before, and how the alias moves.

MLflow sets an alias without asking what it was. So whoever moves it announces it first, in a tag of a version, and
looks for others who did: of two at the same moment at most one goes on. The alias is read before and after the move.

The alias is what people load. The list of champions, oldest first, is a tag of the registered model: a
rollback walks it backwards. An alias that was moved by hand, or a process that was killed between two
writes, leaves a list that does not end with the champion; it is read up to the champion then.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from vavl.errors import InputError, PromotionError

_log = logging.getLogger(__name__)

PROMOTION_TAG = "vavl.promotion"
_HISTORY_TAG = "vavl.champions."
_MOVING_TAG = "vavl.alias_moves"
_MOST_CHAMPIONS = 100
_LEFT_BEHIND_SECONDS = 600.0
"""An announcement that is older was left by a process that was killed; moving an alias takes a second."""


@dataclass(frozen=True)
class Throne:
    """The aliases of one registered model.

    Attributes:
        client: an ``MlflowClient``.
        model: registered model.
        alias: of the champion.
        previous_alias: of the version that a rollback returns to.
    """

    client: Any
    model: str
    alias: str
    previous_alias: str

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

    def crown(self, version: str, compared_with: str | None) -> None:
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

    def way_back(self) -> list[str]:
        """Return the champions as they are after a rollback, oldest first.

        Raises:
            InputError: there is no champion, or none before it.
        """
        champions, previous = self.champions(), self.previous()
        if not champions or previous is None:
            raise InputError(
                f"models:/{self.model}@{self.alias}", "rollback",
                f"version {champions[-1]} is the first champion" if champions else "there is no champion",
                "there is nothing to go back to",
            )  # fmt: skip
        return _up_to(champions[:-1], previous)

    def roll_back(self) -> tuple[str, str]:
        """Return to the champion before this one.

        Returns:
            The version that leaves and the one that is champion again.

        Raises:
            InputError: see ``way_back``.
            PromotionError: somebody else moves the alias now.
        """
        target = self.way_back()[-1]
        with self._moving(target):
            left, kept = self.champion(), self.way_back()
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
                raise self._conflict(
                    f"was moved to version {now or 'none'} by somebody else at the same moment"
                )
        finally:
            self._withdraw(version)

    def _withdraw(self, version: str) -> None:
        """Remove the announcement; a store that is away now does not change what was decided, or why it failed."""
        from mlflow.exceptions import MlflowException

        try:
            self.client.delete_model_version_tag(self.model, version, _MOVING_TAG)
        except MlflowException as fault:
            _log.error(
                "%s of %s version %s stays for ten minutes: %s", _MOVING_TAG, self.model, version, fault
            )

    def _conflict(self, problem: str) -> PromotionError:
        return PromotionError(
            f"models:/{self.model}@{self.alias}", "", problem, "compare again: start the same command"
        )

    def _registered(self) -> Any:
        from mlflow.exceptions import MlflowException

        try:
            return self.client.get_registered_model(self.model)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            raise InputError(
                f"models:/{self.model}",
                "",
                "there is no such registered model",
                "check the name and tracking.uri",
            ) from None

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
        return next((version for version in reversed(versions) if self._exists(version)), None)

    def _exists(self, version: str) -> bool:
        from mlflow.exceptions import MlflowException

        try:
            self.client.get_model_version(self.model, version)
        except MlflowException as fault:
            if fault.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            return False
        return True


def _up_to(versions: Sequence[str], last: str) -> list[str]:
    """Cut a list after the last place of ``last`` in it."""
    return [*versions][: len(versions) - [*versions][::-1].index(last)]
