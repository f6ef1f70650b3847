"""MLX's quantized weights: affine, and floats of four and eight bits.

How many bits and which groups stand in `config.json` alone, for all and for single layers. Source:
mlx-lm's `utils.py`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from arrowquant._model.packed.codes import Codes, Group, whole


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    scales, biases = group.ending(".scales"), group.ending(".biases")
    if group.weight.dtype != "U32" or scales is None:
        return None
    said = _said(group)
    mode = said.get("mode", "affine")
    if mode in ("mxfp4", "mxfp8", "nvfp4"):
        return group.codes(str(mode), {"scale": scales})
    bits, size = whole(said.get("bits")), whole(said.get("group_size"))
    if mode != "affine" or bits is None or size is None:
        return None
    numbers = {"bits": bits, "group_size": size}
    return group.codes("mlx", {"scales": scales, "biases": biases}, numbers=numbers)


def _said(group: Group) -> Mapping[str, Any]:
    """What is said of the layer, else of all."""
    for key in ("quantization", "quantization_config"):
        said = group.config.values.get(key)
        if isinstance(said, dict):
            own = said.get(group.weight.name.removesuffix(".weight"))
            return {**said, **own} if isinstance(own, dict) else said
    return {}
