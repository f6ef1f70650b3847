"""Dictionaries of layers that do not lose what failed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class LayerDict(dict[str, Any]):
    """A dictionary of layers by name. `failed` is a table of those that are not in it."""

    failed: pa.Table

    def __init__(self, *args: Any, failed: pa.Table) -> None:
        super().__init__(*args)
        self.failed = failed
