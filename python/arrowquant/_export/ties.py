"""Heads that are tied to the table of embeddings, and no longer are."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

from arrowquant._errors import QuantizationWarning
from arrowquant._export.layers import Layer, Layers
from arrowquant._files import replacing
from arrowquant._model import Config, read_config
from arrowquant._model.ties import head_and_table
from arrowquant._scan import Scan
from arrowquant._scan.layers import layer_contents

_KEY = "tie_word_embeddings"
_MATRIX = 2


def untie_head(relation: Scan, layers: Layers, folder: Path) -> None:
    """Have `config.json` say that the head is a tensor of its own where it is one.

    A loader of a tied model takes the embeddings for both, and would leave out a head that differs.

    Warns:
        QuantizationWarning: It was tied.
    """
    said = read_config(folder)
    if not said.values or (said.says_tied and not said.is_tied):
        return
    matrices = [layer for layer in layers.layers if len(layer.shape) == _MATRIX]
    found = head_and_table(matrices, lambda layer: layer.name, lambda layer: layer.role)
    if found is None or _are_same(relation, *found):
        return
    head, table = found
    path = folder / "config.json"
    config = _untied(json.loads(path.read_text("utf-8")))
    if not said.says_tied:
        config[_KEY] = False
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
    if not said.says_tied:
        return
    message = (
        f"config.json ties '{head.name}' to '{table.name}', but they differ now. The export says "
        f"{_KEY}: false, so that loaders take both."
    )
    warnings.warn(QuantizationWarning(message), stacklevel=3)


def tied_head(relation: Scan, layers: Layers, config: Config) -> Layer | None:
    """The head that a model ties to its table of embeddings, where both are the same."""
    if not config.is_tied:
        return None
    matrices = [layer for layer in layers.layers if len(layer.shape) == _MATRIX]
    found = head_and_table(matrices, lambda layer: layer.name, lambda layer: layer.role)
    return found[0] if found is not None and _are_same(relation, *found) else None


def _are_same(relation: Scan, head: Layer, table: Layer) -> bool:
    """Whether both have the same bytes and are written alike."""
    alike = [(x.dtype, x.shape, x.way) for x in (head, table)]
    return alike[0] == alike[1] and (
        layer_contents(relation, head.name) == layer_contents(relation, table.name)
    )


def _untied(config: Any) -> Any:
    """The configuration with nothing tied, nested models included."""
    if not isinstance(config, dict):
        return config
    return {
        key: False if key == _KEY and value is True else _untied(value)
        for key, value in config.items()
    }
