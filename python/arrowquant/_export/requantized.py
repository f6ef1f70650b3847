"""What `config.json` says of the source's own codes, once these are decoded."""

from __future__ import annotations

import json
from pathlib import Path

from arrowquant._export.layers import Layer, Layers
from arrowquant._files import replacing
from arrowquant._model import is_float, read_config

_KEYS = ("quantization_config", "quantization")
"""MLX says it twice."""
_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
"""Others say it in files of their own."""


def forget_source_codes(layers: Layers, folder: Path) -> None:
    """Take what is said of codes out of `config.json` where it is of codes that no longer are.

    It stays where a layer is kept as another tool has quantized it.
    """
    if any(_holds_codes(layer) for layer in layers.layers):
        return
    for name in _FILES:
        (folder / name).unlink(missing_ok=True)
    said = read_config(folder).values
    if not any(key in said for key in _KEYS):
        return
    path = folder / "config.json"
    config = json.loads(path.read_text("utf-8"))
    for key in _KEYS:
        config.pop(key, None)
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(config, indent=2) + "\n", "utf-8")


def _holds_codes(layer: Layer) -> bool:
    """Whether it is written as another tool has quantized it."""
    is_code = layer.scheme == "none" and not is_float(layer.dtype)
    return layer.is_of_another_tool or is_code
