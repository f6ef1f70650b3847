"""What `config.json` says of the source's own codes, once these are decoded."""

from __future__ import annotations

import json
from pathlib import Path

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._export.layers import Layers
from arrowquant._files import replacing
from arrowquant._model import read_config
from arrowquant._scan import Scan

_KEY = "quantization_config"


def forget_source_codes(relation: Scan, layers: Layers, folder: Path) -> None:
    """Take `quantization_config` out of `config.json` where it is of codes that no longer are.

    It stays where a layer is kept as another tool has quantized it.
    """
    if not isinstance(relation, Dataset) or not relation.manifest.settings.get("requantize"):
        return
    said = read_config(folder).values
    if _KEY not in said or any(layer.is_of_another_tool for layer in layers.layers):
        return
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    config.pop(_KEY, None)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", "utf-8")
