"""Names that models registered by version 0.1 import from here when another ``vavl`` is loaded already."""

from vavl.serving.served_rows import INPUT_COLUMNS, RowPredictor

__all__ = ["INPUT_COLUMNS", "RowPredictor"]
