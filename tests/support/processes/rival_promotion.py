"""Two processes that want the same champion's place: started by tests, each with its own MLflow client.

    python rival_promotion.py ADDRESS VERSION GO_FILE MODEL [MODEL ...]

prints, per model, whether VERSION became champion in place of version 1.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from own_process import OwnProcess

CHAMPION, RIVALS = "1", ("2", "3")
_GO_SECONDS = 120


def make_models(client: Any, names: Sequence[str]) -> None:
    """Register models of three versions without files, the first one champion."""
    for name in names:
        client.create_registered_model(name)
        for _ in (CHAMPION, *RIVALS):
            client.create_model_version(name, source="made up")
        client.set_registered_model_alias(name, "champion", CHAMPION)


def race(address: str, models: Sequence[str], folder: Path) -> list[dict[str, str]]:
    """Let two processes start at the same moment and return what each says, model by model."""
    go = folder / "go"
    rivals = [
        OwnProcess("-W", "ignore", __file__, address, version, go, *models, log=folder / f"rival-{version}")
        for version in RIVALS
    ]
    try:
        for version, rival in zip(RIVALS, rivals, strict=True):
            rival.wait_until((folder / f"ready-{version}").exists, _GO_SECONDS)
        go.touch()
        assert [rival.end(_GO_SECONDS) for rival in rivals] == [0, 0]
    finally:
        for rival in rivals:
            rival.kill()
    return [json.loads(rival.said.splitlines()[-1]) for rival in rivals]


def champions_and_winners(
    client: Any, models: Sequence[str], said: Sequence[Mapping[str, str]]
) -> tuple[list[list[str]], list[list[str]]]:
    """Return by model who is champion, and who said that it won, or the champion before where nobody did."""
    champions = [[str(client.get_registered_model(model).aliases["champion"])] for model in models]
    winners = [
        [version for version, answers in zip(RIVALS, said, strict=True) if answers[model] == "won"] for model in models
    ]
    return champions, [found or [CHAMPION] for found in winners]


def reasons(said: Sequence[Mapping[str, str]]) -> list[str]:
    """Return what the losers said."""
    return [text for answers in said for text in answers.values() if text != "won"]


def _promote(client: Any, model: str, version: str) -> str:
    from vavl.errors import PromotionError
    from vavl.promotion.promotion import ModelAliases

    aliases = ModelAliases(client, model, "champion", "previous")
    try:
        aliases.move_to(version, CHAMPION)
    except PromotionError as fault:
        return fault.problem
    return "won"


def main(address: str, version: str, go: str, *models: str) -> None:
    """Compete for every model in turn."""
    from vavl.tracking.mlflow_writer import open_client
    from vavl.tracking.settings import TrackingPlace, TrackingSettings

    client = open_client(TrackingSettings(uri=None), TrackingPlace(address, None))
    client.search_registered_models(max_results=1)
    Path(go).with_name(f"ready-{version}").touch()
    while not Path(go).exists():
        time.sleep(0.001)
    print(json.dumps({model: _promote(client, model, version) for model in models}))


if __name__ == "__main__":
    main(*sys.argv[1:])
