"""Names that models registered by version 0.1 import from here when another ``vavl`` is loaded already."""

from vavl.serving.served_code import CODE_HASH_KEY, code_hash
from vavl.serving.served_rows import value_columns

__all__ = ["CODE_HASH_KEY", "code_hash", "value_columns"]
