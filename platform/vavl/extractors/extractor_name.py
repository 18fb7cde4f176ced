"""Which class of settings a mapping is meant for: its key ``extractor`` tells."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import Discriminator


def by_extractor(default: str) -> Discriminator:
    """Return the discriminator of a union of settings, given as mappings or as objects.

    Args:
        default: extractor of settings that name none.
    """

    def name(content: Any) -> str:
        if isinstance(content, Mapping):
            return str(content.get("extractor", default))
        return str(getattr(content, "extractor", default))

    return Discriminator(name)
