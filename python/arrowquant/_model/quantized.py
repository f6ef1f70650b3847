"""Tensors that are quantized already, and what belongs to them, by the names that tools write.

Sources of names: compressed-tensors `compressors/`, transformers' `integrations/{finegrained_fp8,
mxfp4,bitsandbytes}.py`, AutoGPTQ's and AutoAWQ's linear layers, mlx-lm's `utils.py`, ModelOpt's
`export/`; see also `docs/checkpoint.md`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from arrowquant._model.config import Config
from arrowquant._model.tensor import Tensor, is_float

_FP8 = {"F8_E4M3", "F8_E5M2", "F8_E4M3FNUZ", "F8_E5M2FNUZ"}
_PACKED = {"U8", "I8", "I32", "U32", "I16", "U16", "I64", "F4", *_FP8}
"""Types that hold codes."""

_BLOCK = 128


@dataclass(frozen=True)
class Quantized:
    """What is known of a tensor that is quantized or belongs to one that is."""

    reason: str
    companion_of: str | None = None
    """Its tensor, where that is there."""
    is_companion: bool = False


@dataclass(frozen=True)
class _Suffix:
    """A companion's name: what it ends with, and what its tensor ends with instead."""

    pattern: re.Pattern[str]
    weights: tuple[str, ...]
    method: str | None
    """What it says by itself of how the tensor is quantized."""
    alone: bool = True
    """The name says enough where the tensor is not there, as in one shard of several."""


def _suffix(
    names: str, weights: tuple[str, ...], method: str | None, *, alone: bool = True
) -> _Suffix:
    return _Suffix(re.compile(rf"(?:{names})$"), weights, method, alone)


_SUFFIXES = (
    _suffix(r"\.weight\.(nested_)?(absmax|quant_map)", (".weight",), "bitsandbytes"),
    _suffix(r"\.weight\.quant_state\.\w+", (".weight",), "bitsandbytes"),
    _suffix(r"\.(nested_)?(absmax|quant_map)|\.quant_state\.\w+", ("",), "bitsandbytes"),
    _suffix(r"\.(SCB|weight_format)", (".weight",), "bitsandbytes"),
    _suffix(
        r"\.(weight_zero_point|weight_shape|weight_g_idx|weight_global_scale|input_global_scale)",
        (".weight_packed", ".weight"),
        "compressed-tensors",
    ),
    _suffix(r"\.weight_scale_2", (".weight",), "modelopt"),
    _suffix(r"\.weight_scale_inv", (".weight",), "fp8"),
    _suffix(r"\.weight_scale", (".weight_packed", ".weight"), None),
    _suffix(
        r"\.(input|output|activation|act)_scale(_\w+)?|\.input_zero_point|\.scale_weight"
        r"|\.scale_input|\.scaled_fp8",
        (".weight_packed", ".weight", ""),
        None,
    ),
    _suffix(r"\.[kqv]_(scale|zero_point)|\.[kv]_proj\.output_scale", ("",), None),
    _suffix(r"_scale_inv", ("", ".weight"), "fp8"),
    _suffix(r"(_input|_global|_input_global)?_scale(_2)?", ("", "_packed"), None, alone=False),
    _suffix(r"\.(qzeros|g_idx|qscales)", (".qweight",), None),
    _suffix(r"\.scales", (".qweight", ".weight"), None, alone=False),
    _suffix(r"\.scale|\.weight:_weight_scale|\._weight_scale", (".weight",), None, alone=False),
    _suffix(r"\.biases", (".weight",), "mlx", alone=False),
    _suffix(r"_scales", ("_blocks",), "mxfp4", alone=False),
    _suffix(r"_(weight_)?scale(_2)?", ("", "_packed"), None, alone=False),
)

_ANY = re.compile("|".join(f"(?:{suffix.pattern.pattern})" for suffix in _SUFFIXES))
"""Most names end in none of them, which one look tells."""

_METHODS = {
    "compressed_tensors": "compressed-tensors",
    "compressed-tensors": "compressed-tensors",
    "fbgemm_fp8": "fp8",
}


def find(tensors: Mapping[str, Tensor], config: Config) -> dict[str, Quantized]:
    """The tensors of a checkpoint that are quantized already, and their companions.

    Args:
        tensors: All of the checkpoint, by name.
        config: What is said beside them.
    """
    method = config.quant_method
    said = None if method is None else _METHODS.get(method, method)
    owners: dict[str, list[str]] = {}
    alone: dict[str, str] = {}
    kinds: dict[str, str | None] = {}
    for name in filter(_ANY.search, tensors):
        for suffix in _SUFFIXES:
            match = suffix.pattern.search(name)
            if match is None:
                continue
            stem = name[: match.start()]
            owner = next((stem + end for end in suffix.weights if stem + end in tensors), None)
            if said is None and _ACTIVATIONS.search(name) and not _has_codes(tensors, stem):
                break  # Parameters of attention are called so, too.
            if owner is not None and owner != name and _can_belong(tensors, owner, name):
                owners.setdefault(owner, []).append(name)
                kinds[owner] = kinds.get(owner) or suffix.method
                break
            if suffix.alone and owner is None:
                alone[name] = suffix.method or said or "unknown format"
                break
    found: dict[str, Quantized] = {}
    for owner, companions in owners.items():
        found |= _group(tensors, owner, companions, said or kinds[owner])
    found |= {
        name: Quantized(f"already_quantized ({said or method})", is_companion=True)
        for name, method in alone.items()
        if name not in found
    }
    found |= dict(_without_companions(tensors, found, said))
    return found | dict(_beside_codes(tensors, found, said))


def _has_codes(tensors: Mapping[str, Tensor], module: str) -> bool:
    """Whether a module's weights are codes."""
    names = (f"{module}.weight", f"{module}.weight_packed", f"{module}.qweight", module)
    return any(name in tensors and tensors[name].dtype in _PACKED for name in names)


def _can_belong(tensors: Mapping[str, Tensor], owner: str, companion: str) -> bool:
    """Whether a name that may mean anything means this here.

    Scales of a float matrix are no scales, unless their name leaves no doubt.
    """
    if companion.endswith((".scale", ".scales", ".biases", "_scales", "_scale", "_scale_2")):
        doubtful = not companion.endswith((".weight_scale", ".input_scale", "_scale_inv"))
        return not (doubtful and is_float(tensors[owner].dtype))
    return True


def _group(
    tensors: Mapping[str, Tensor], owner: str, companions: list[str], said: str | None
) -> dict[str, Quantized]:
    """A tensor and all that belongs to it."""
    method = said or _method_of(tensors[owner], companions)
    why = _disagreement(tensors, owner, companions, method)
    reason = f"already_quantized ({method}{'' if why is None else f': {why}'})"
    group = {name: Quantized(reason, owner, is_companion=True) for name in companions}
    # Scales of activations alone say nothing of the weights.
    of_weights = [name for name in companions if not _ACTIVATIONS.search(name)]
    if of_weights or not is_float(tensors[owner].dtype):
        group[owner] = Quantized(reason)
    return group


_ACTIVATIONS = re.compile(
    r"(input|output|activation|act)_(global_)?scale(_\w+)?$|input_zero_point$|scale_input$"
    r"|\.[kqv]_(scale|zero_point)$"
)


def _method_of(weight: Tensor, companions: list[str]) -> str:
    """How a tensor is quantized, by its own name and type and those of its companions."""
    if weight.name.endswith(".weight_packed"):
        return "compressed-tensors"
    if weight.name.endswith(".qweight"):
        return "gptq" if any(name.endswith(".g_idx") for name in companions) else "gptq or awq"
    if weight.dtype == "U32":
        return "mlx"
    return "fp8" if weight.dtype in _FP8 else "int8" if weight.dtype == "I8" else "packed"


def _without_companions(
    tensors: Mapping[str, Tensor], found: Mapping[str, Quantized], said: str | None
) -> Iterator[tuple[str, Quantized]]:
    """Packed tensors by their names alone, or by their types where config.json says how."""
    for name, tensor in tensors.items():
        if name in found:
            continue
        is_codes = name.endswith(".qweight") and tensor.dtype in _PACKED
        if is_codes or name.endswith(".weight_packed"):  # Also of sparse floats.
            yield name, Quantized(f"already_quantized ({said or _method_of(tensor, [])})")
        elif said is not None and tensor.dtype in _PACKED and len(tensor.shape) > 1:
            yield name, Quantized(f"already_quantized ({said})")


_MATRIX = re.compile(r"(^|[._])(weight|bias|biases|\w*_proj|\w*_bias|w\d+|v\d+)$")
"""What parameters of a layer are called that belong to no other."""
_BUFFER = re.compile(r"(ids|mask|masked_bias|buckets|index\w*|tokens?)$")
"""Whole numbers that are no codes."""


def _beside_codes(
    tensors: Mapping[str, Tensor], found: Mapping[str, Quantized], said: str | None
) -> Iterator[tuple[str, Quantized]]:
    """Floats that share a module with codes, whatever a tool calls them: scales, zeros, tables."""
    codes: dict[str, str] = {}
    for name, tensor in tensors.items():
        is_matrix = sum(size > 1 for size in tensor.shape) > 1
        if tensor.dtype in _PACKED - {"I64"} and is_matrix and not _BUFFER.search(name):
            codes.setdefault(_module(name), name)
    for name in tensors:
        owner = codes.get(_module(name))
        if owner is None or name in found or not _is_beside(tensors, name, owner):
            continue
        known = found.get(owner)
        quantized = known or Quantized(f"already_quantized ({said or 'codes of some kind'})")
        yield owner, quantized
        yield name, Quantized(quantized.reason, owner, is_companion=True)


def _module(name: str) -> str:
    return re.split(r"\.[^.]*$", name)[0]


def _is_beside(tensors: Mapping[str, Tensor], name: str, owner: str) -> bool:
    """Whether a tensor is a float of no matrix's name."""
    last = name.rpartition(".")[2]
    return name != owner and is_float(tensors[name].dtype) and not _MATRIX.search(last)


def _disagreement(
    tensors: Mapping[str, Tensor], owner: str, companions: list[str], method: str
) -> str | None:
    """Why a tensor and its companions can't be what their names say; None where they can."""
    weight = tensors[owner]
    scales = next((tensors[n] for n in companions if _SCALES.search(n)), None)
    if scales is None:
        return None
    if is_float(weight.dtype):
        return f"{scales.name} belongs to weights that are {weight.dtype}"
    if weight.dtype in _FP8 and not _fits(weight.shape, scales.shape):
        return f"scales {scales.shape} fit no blocks of {weight.shape}"
    if weight.name.endswith(".qweight") and len(scales.shape) > 1:
        columns = scales.shape[-1]
        widths = {columns, *(columns * bits // 32 for bits in (2, 3, 4, 8))}
        by_rows = weight.shape[0] == scales.shape[0]  # AWQ's gemv.
        if weight.shape[-1] not in widths and not by_rows:
            return f"scales {scales.shape} don't fit qweight {weight.shape}"
    rows = weight.shape[:-1]
    by_rows = method == "mlx" or weight.name.endswith((".weight_packed", "_blocks"))
    if by_rows and len(scales.shape) > 1 and scales.shape[: len(rows)] != rows[: len(scales.shape)]:
        return f"scales {scales.shape} don't fit {weight.shape}"
    return None


_SCALES = re.compile(r"(weight_scale_inv|weight_scale|_scale_inv|scales)$")


def _fits(weight: list[int], scales: list[int]) -> bool:
    """One scale for all, for each row, or for blocks of some size."""
    sizes = [size for size in scales if size != 1]
    if not sizes or not weight:
        return True
    if len(scales) > len(weight):
        return False
    if len(scales) < len(weight):
        return scales == weight[: len(scales)] or sizes == weight[-len(sizes) :]
    return all(_blocks(size, count) for size, count in zip(weight, scales, strict=True))


def _blocks(size: int, count: int) -> bool:
    """Whether so many blocks of one length cover a dimension."""
    if count in {1, size}:
        return True
    if not 0 < count <= size:
        return False
    return any(-(-size // length) == count for length in (16, 32, 64, _BLOCK, 256, 512))
