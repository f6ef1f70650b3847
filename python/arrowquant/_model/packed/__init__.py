"""Weights that are quantized already, and that we can decode: the tensors that make one row.

A file for each tool's formats. Each says of a tensor and those that belong to it what they are, by
names, types and what `config.json` says; the core reads their bytes and has the last word.
"""

from __future__ import annotations

from collections.abc import Mapping

from arrowquant._model.config import Config
from arrowquant._model.packed import (
    bitsandbytes,
    compressed_tensors,
    ggml,
    gptq,
    mlx,
    modelopt,
    mxfp4,
)
from arrowquant._model.packed.codes import Codes, Group
from arrowquant._model.quantized import Quantized
from arrowquant._model.tensor import Tensor

__all__ = ["Codes", "find"]

_FORMATS = (
    ggml.read,
    bitsandbytes.read,
    gptq.read,
    mlx.read,
    mxfp4.read,
    modelopt.read,
    compressed_tensors.read,
)
"""In this order: the first that knows a group reads it."""
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


def find(
    tensors: Mapping[str, Tensor], found: Mapping[str, Quantized], config: Config
) -> dict[str, Codes]:
    """The tensors of codes among a checkpoint's that can be decoded, by name."""
    by_owner: dict[str, list[str]] = {}
    for name, quantized in found.items():
        if quantized.is_companion and quantized.companion_of is not None:
            by_owner.setdefault(quantized.companion_of, []).append(name)
    dtype = _DTYPES.get(str(config.text("torch_dtype", "dtype")).removeprefix("torch."), "F32")
    codes = {}
    for owner, companions in by_owner.items():
        weight = tensors[owner]
        group = Group(weight, {name: tensors[name] for name in companions}, dtype, config)
        known = next((one for one in (read(group) for read in _FORMATS) if one is not None), None)
        # Another tensor may have the name that the layer would have.
        if known is not None and (known.layer == owner or known.layer not in tensors):
            codes[owner] = known
    return codes
