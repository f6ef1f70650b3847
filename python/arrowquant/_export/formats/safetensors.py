"""A checkpoint with every layer decoded, in its own type."""

from __future__ import annotations

from pathlib import Path

from arrowquant._export.formats.base import Format, Model


class Safetensors(Format):
    """Every layer decoded."""

    name = "safetensors"
    layout = None

    def configure(self, model: Model, folder: Path) -> None:
        """Nothing is said: nothing is quantized."""
