"""The rooms' settings put together: one class per job."""

from __future__ import annotations
