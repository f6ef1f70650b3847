"""compressed-tensors' formats; and FP8 weights with scales as transformers and DeepSeek write them.

Sources: `compressors/` in https://github.com/vllm-project/compressed-tensors, transformers'
`integrations/finegrained_fp8.py`, `inference/fp8_cast_bf16.py` of DeepSeek-V3.
"""

from __future__ import annotations

from typing import TypeGuard

from arrowquant._model.packed.codes import Codes, Group, whole
from arrowquant._model.tensor import Tensor, is_float

_BLOCK = 128
_MATRIX = 2


def read(group: Group) -> Codes | None:
    """The weights of a group, if it is one."""
    scale = group.ending(".weight_scale_inv", ".weight_scale")
    if scale is None:
        return None
    for read_one in (_floats, _integers, _fp8):
        codes = read_one(group, scale)
        if codes is not None:
            return codes
    return None


def _floats(group: Group, scale: Tensor) -> Codes | None:
    """NVFP4, MXFP4 and MXFP8."""
    stem = group.weight.name.removesuffix("_packed")
    is_packed, kinds = stem != group.weight.name, (group.weight.dtype, scale.dtype)
    if is_packed and kinds == ("U8", "F8_E4M3"):
        sides = {"scale": scale, "divisor": group.ending(".weight_global_scale")}
        return group.codes("nvfp4", sides, layer=stem)
    if is_packed and kinds == ("U8", "U8"):
        return group.codes("mxfp4", {"scale": scale}, layer=stem)
    return group.codes("mxfp8", {"scale": scale}) if kinds == ("F8_E4M3", "U8") else None


def _integers(group: Group, scale: Tensor) -> Codes | None:
    """`pack-quantized` and `int-quantized`."""
    shape = group.ending(".weight_shape")
    is_words = group.weight.dtype == "I32" and shape is not None
    if not (is_words or group.weight.dtype == "I8") or not is_float(scale.dtype):
        return None
    sides = {
        "scale": scale,
        "zero_point": group.ending(".weight_zero_point"),
        "shape": shape,
        "order": group.ending(".weight_g_idx"),
    }
    return group.codes("integers", sides, layer=group.weight.name.removesuffix("_packed"))


def _fp8(group: Group, scale: Tensor) -> Codes | None:
    """FP8 with scales for all, for rows or for blocks."""
    groups = _groups(group, scale) if group.weight.dtype == "F8_E4M3" else None
    return None if groups is None else group.codes("fp8", {"scale": scale}, numbers=groups)


def _groups(group: Group, scales: Tensor) -> dict[str, int] | None:
    """The group size and group rows that scales are of; None where they fit none."""
    shape = group.weight.shape
    if len(shape) != _MATRIX or 0 in shape or not is_float(scales.dtype):
        return None
    rows, columns = shape
    count = 1
    for size in scales.shape:
        count *= size
    if scales.shape == [] or count == 1:
        return {"group_size": -1, "group_rows": -1}
    if scales.shape in ([rows], [rows, 1]):
        return {"group_size": -1, "group_rows": 1}
    block = _block(group)
    if block is not None and scales.shape == [-(-rows // block[0]), -(-columns // block[1])]:
        return {"group_size": block[1], "group_rows": block[0]}
    return None


def _block(group: Group) -> list[int] | None:
    """The size of blocks, as it is said; else DeepSeek's."""
    said = group.config.quantization or {}
    block = said.get("weight_block_size")
    groups = said.get("config_groups")
    for one in groups.values() if isinstance(groups, dict) else ():
        weights = one.get("weights") if isinstance(one, dict) else None
        block = block or (weights.get("block_structure") if isinstance(weights, dict) else None)
    found = [_BLOCK, _BLOCK] if block is None else block
    return found if _is_block(found) else None


def _is_block(said: object) -> TypeGuard[list[int]]:
    """Whether it is two positive whole numbers."""
    return (
        isinstance(said, list)
        and len(said) == _MATRIX
        and all((whole(size) or 0) > 0 for size in said)
    )
