"""The command line that every job shares: CONFIG.yaml, dotted overrides, --help, --dry-run."""

from __future__ import annotations

import argparse
import logging
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from vavl.config.base import FrozenConfig
from vavl.config.load import read_config
from vavl.config.places import ROOT_VARIABLE, anchored, check_project_files, is_lost_with_the_job, root_directory
from vavl.config.progress import log_to_stderr
from vavl.config.setting_list import help_text
from vavl.errors import VavlError

Settings = TypeVar("Settings", bound=FrozenConfig)
_log = logging.getLogger(__name__)


def run_job(
    description: str,
    settings: type[Settings],
    story: Callable[[Settings], None],
    check: Callable[[Settings], None],
    arguments: Sequence[str] | None = None,
) -> int:
    """Read the configuration, check everything that is cheap to check, then tell the story.

    Args:
        description: what the job does; the first paragraph of ``--help``.
        settings: the configuration class of the job.
        story: does the work; prints its own result.
        check: looks at everything that the work needs (directories, cards, stores) without starting
            anything heavy; raises ``VavlError`` on a error. It also runs before the story.
        arguments: words of the command line; ``sys.argv`` by default.

    Returns:
        The exit code: 0 success, 1 failed work, 2 bad configuration or input.
    """
    words = parse_arguments(description, settings, arguments)
    log_to_stderr()
    try:
        config = _read_settings(settings, words)
        check(config)
        if words.dry_run:
            print(f"dry run: {words.config} is valid; nothing was started")
            return 0
        story(config)
    except VavlError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("interrupted: start the same command again to continue", file=sys.stderr)
        return 1
    except Exception:  # noqa: BLE001  the last line of defence: anything unknown is failed work, exit code 1
        traceback.print_exc()
        return 1
    return 0


def parse_arguments(
    description: str, settings: type[FrozenConfig], arguments: Sequence[str] | None = None
) -> argparse.Namespace:
    """Parse the words of a job's command line.

    ``--help`` lists every setting with its default, after a configuration file its own values first.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    if {"-h", "--help"} & set(words):
        files = (Path(word) for word in words if word.endswith((".yaml", ".yml")) and Path(word).is_file())
        parser.epilog = help_text(settings, next(files, None))
    kinds = ["directory"] * (settings.directory_key is not None) + ["file"] * bool(settings.directory_key_suffixes)
    metavar = "|".join([*(kind.upper() for kind in kinds), "CONFIG.yaml"])
    note = "".join(f"{kind}, or " for kind in kinds)
    parser.add_argument("config", type=_place, metavar=metavar, help=f"{note}configuration file")
    parser.add_argument(
        "overrides", nargs="*", metavar="dotted.key=value", help="settings that replace those of the file"
    )
    parser.add_argument("--dry-run", action="store_true", help="validate everything, start nothing heavy")
    return parser.parse_intermixed_args(words)  # so that --dry-run may stand anywhere


def _read_settings(settings: type[Settings], words: argparse.Namespace) -> Settings:
    root = root_directory()
    if is_lost_with_the_job():
        _log.warning(
            f"{ROOT_VARIABLE} is not set: relative results go into {Path.cwd()}, which Ray deletes; pass "
            f"--runtime-env-json or start Ray with {ROOT_VARIABLE}=/directory"
        )
    config = read_config(settings, words.config, words.overrides)
    check_project_files(config, Path(words.config), words.overrides, root)
    return anchored(config, root)


def _place(word: str) -> Path | str:
    # A path would swallow a slash of an address, and models:/NAME/1 is no file.
    return word if ":/" in word else Path(word)


def print_table(title: str, rows: Sequence[tuple[str, Any]]) -> None:
    """Print a short two-column result table."""
    console = Console(highlight=False, soft_wrap=True)
    console.print(f"\n[bold]{title}[/bold]")
    width = max((len(name) for name, _ in rows), default=0)
    for name, value in rows:
        console.print(f"  {name:<{width}}  {value}", markup=False)
