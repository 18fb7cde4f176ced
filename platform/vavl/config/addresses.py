"""Where a feature store or a run is: a directory, or an address of object storage or a server."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import BeforeValidator

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_COLLAPSED = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:/[^/]")


def store_address(value: Any) -> Any:
    """Return a directory as a path and an address (``s3://bucket/store``) as the text it is.

    Raises:
        ValueError: the address is malformed, lost a slash, or holds something secret.
    """
    if not isinstance(value, (str, Path)):
        return value
    text = str(value)
    if isinstance(value, Path) and _COLLAPSED.match(text):
        raise ValueError("was an address and lost a slash on its way through a path; write it as text")
    if "://" not in text:
        return Path(text)
    if not _SCHEME.match(text):
        raise ValueError("is neither a directory nor an address such as s3://bucket/demo")
    parts = urlsplit(text)
    if parts.password is not None or parts.query or parts.fragment:
        raise ValueError(
            "holds a password or a signature; the address is saved with the run: give credentials by the "
            "environment, e.g. AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY"
        )
    return text.rstrip("/")


StoreAddress = Annotated[Path | str, BeforeValidator(store_address)]
"""Type of a setting that names a store or a run: a ``Path`` is a directory, a ``str`` an address."""


def absolute_store(place: Path | str) -> Path | str:
    """Return the place of a store or a run such that it means the same in every directory."""
    return place.absolute() if isinstance(place, Path) else place
