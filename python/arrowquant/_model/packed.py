"""Weights that are quantized already, and that we can decode: the tensors that make one row.

FP8 weights with their scales, as transformers' `integrations/finegrained_fp8.py`, DeepSeek and
compressed-tensors' `float-quantized` write them: `w = weight * scale`, one scale for all, for each
row, or for each block.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeGuard

from arrowquant._model.config import Config
from arrowquant._model.quantized import Quantized
from arrowquant._model.tensor import Tensor

_SCALES = ("weight_scale_inv", "weight_scale")
_FLOATS = ("F32", "BF16", "F16", "F64")
_BLOCK = 128
_DTYPES = {"bfloat16": "BF16", "float16": "F16", "float32": "F32"}


@dataclass(frozen=True)
class Codes:
    """How a tensor of codes is read."""

    scheme: str
    dtype: str
    """Of the weights that it decodes to."""
    group_size: int | None
    group_rows: int | None
    companions: Sequence[str]
    """The tensors that its scales are in."""
    scales: Sequence[float] = ()
    """Their numbers, once they are read."""


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
        scales = [name for name in companions if name.endswith(_SCALES)]
        if tensors[owner].dtype != "F8_E4M3" or len(scales) != 1:
            continue
        groups = _groups(tensors[owner].shape, tensors[scales[0]], config)
        if groups is not None:
            codes[owner] = Codes("fp8_e4m3", dtype, *groups, scales)
    return codes


def _groups(shape: list[int], scales: Tensor, config: Config) -> tuple[int, int] | None:
    """The group size and group rows that scales are of; None where they fit none."""
    matrix = 2
    if len(shape) != matrix or 0 in shape or scales.dtype not in _FLOATS:
        return None
    rows, columns = shape
    count = 1
    for size in scales.shape:
        count *= size
    if scales.shape == [] or count == 1:
        return -1, -1
    if scales.shape in ([rows], [rows, 1]):
        return -1, 1
    said = (config.quantization or {}).get("weight_block_size")
    block = [_BLOCK, _BLOCK] if said is None else said
    if not _is_block(block):
        return None
    if scales.shape == [-(-rows // block[0]), -(-columns // block[1])]:
        return block[1], block[0]
    return None


def _is_block(said: object) -> TypeGuard[list[int]]:
    """Whether it is two positive whole numbers."""
    matrix = 2
    return (
        isinstance(said, list)
        and len(said) == matrix
        and all(type(size) is int and size > 0 for size in said)
    )
