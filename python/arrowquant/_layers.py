"""Dictionaries of layers that do not lose what failed."""

from __future__ import annotations

from typing import Any

import pyarrow as pa

from arrowquant._display import html_table, some


class LayerDict(dict[str, Any]):
    """A dictionary of layers by name. `failed` is a table of those that are not in it."""

    failed: pa.Table

    def __init__(self, *args: Any, failed: pa.Table) -> None:
        super().__init__(*args)
        self.failed = failed

    def __repr__(self) -> str:
        failed = f", {self.failed.num_rows} failed" if self.failed.num_rows else ""
        return f"LayerDict of {len(self)} layers ({some(self, len(self))}){failed}"

    def _repr_html_(self) -> str:
        rows = ([name, _described(layer)] for name, layer in self.items())
        return html_table(repr(self), ["layer", "what"], rows, len(self))


def _described(layer: Any) -> str:
    """What a layer is, without its numbers."""
    if isinstance(layer, dict):
        scheme = layer.get("scheme") or f"{layer.get('bit_width')} bits"
        return f"{scheme}, shape {layer.get('shape')}"
    return f"{layer.dtype} {list(layer.shape)}"
