"""Named arrays of any library as a weights relation, without a copy of their elements."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from arrowquant import _core
from arrowquant._inputs.arrow import ArrowStreamExportable
from arrowquant._inputs.loaded import is_a

Problem = tuple[str, str]
"""An error code and the reason."""

DTYPES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "float8_e4m3fn": "F8_E4M3",
    "float8_e5m2": "F8_E5M2",
    "float8_e4m3fnuz": "F8_E4M3FNUZ",
    "float8_e5m2fnuz": "F8_E5M2FNUZ",
    "float8_e8m0fnu": "F8_E8M0",
    "complex64": "C64",
    "int64": "I64",
    "uint64": "U64",
    "int32": "I32",
    "uint32": "U32",
    "int16": "I16",
    "uint16": "U16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}
"""safetensors' names of NumPy's, ml_dtypes' and torch's types."""

_CPU, _CUDA_HOST = 1, 3
_DLPACK = {0: "int", 1: "uint", 2: "float", 5: "complex"}
_DLPACK_OTHERS = {
    (4, 16): "bfloat16",
    (6, 8): "bool",
    (10, 8): "float8_e4m3fn",
    (11, 8): "float8_e4m3fnuz",
    (12, 8): "float8_e5m2",
    (13, 8): "float8_e5m2fnuz",
    (14, 8): "float8_e8m0fnu",
}
"""Codes and bits of types, https://dmlc.github.io/dlpack/latest/c_api.html, `DLDataTypeCode`."""


class Array(NamedTuple):
    """An array as the core reads it, or why it can't be read."""

    dtype: str | None = None
    """safetensors' name, or the library's own where safetensors has none."""
    shape: tuple[int, ...] | None = None
    bytes: Any = None
    """One dimension of uint8."""
    problem: Problem | None = None

    @property
    def size(self) -> int:
        """How many elements there are."""
        return int(np.prod(self.shape or (), dtype=object))


def read(value: Any) -> Array:
    """Read an array of NumPy, torch, JAX, or any library with `__dlpack__` or `__array__`."""
    if isinstance(value, np.ndarray):
        return _numpy(value)
    try:
        if is_a(value, "torch", "Tensor"):
            return _torch(value)
        if hasattr(value, "__dlpack__"):
            return _dlpack(value)
        if hasattr(value, "__array__"):
            return _numpy(np.asarray(value))
    except Exception as error:  # Whatever the other library raises.
        return Array(problem=("unsupported_dtype", f"can't be read as an array: {error}"))
    return Array(
        problem=(
            "unsupported_dtype",
            f"Expected numpy array, got {type(value).__name__}. Convert it with np.asarray(...).",
        )
    )


def _numpy(array: np.ndarray[Any, Any]) -> Array:
    dtype, shape = safetensors_dtype(array.dtype), array.shape
    problem = None
    if isinstance(array, np.ma.MaskedArray):
        problem = "is a masked array, whose mask would be lost. Fill it with arr.filled(...)."
    elif array.dtype.byteorder == ">":
        problem = (
            f"is big-endian ('{array.dtype.str}'). Convert it with "
            "arr.astype(arr.dtype.newbyteorder('='))."
        )
    elif dtype is None:
        problem = (
            f"has dtype '{array.dtype}', which is no weights' type. Convert it with "
            "arr.astype(np.float32)."
        )
    if problem is not None:
        return Array(dtype or array.dtype.name, shape, None, ("unsupported_dtype", problem))
    if not array.flags.c_contiguous:
        return Array(dtype, shape, None, _not_contiguous("np.ascontiguousarray(arr)"))
    return Array(dtype, shape, np.asarray(array).reshape(-1).view(np.uint8))


def _torch(tensor: Any) -> Array:
    name, shape = str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape)
    dtype, device = DTYPES.get(name), tensor.device
    problem = None
    if device.type == "meta":
        problem = "has no data: it is on the device 'meta'. Load the weights first."
    elif str(tensor.layout) != "torch.strided":
        problem = f"is sparse ({tensor.layout}). Convert it with .to_dense()."
    elif tensor.is_quantized:
        problem = f"is a quantized tensor ({name}). Convert it with .dequantize()."
    elif device.type != "cpu":
        problem = f"is on the device '{device}'. Copy it to the CPU with .cpu()."
    elif dtype is None:
        problem = f"has dtype '{name}', which is no weights' type. Convert it with .float()."
    if problem is not None:
        return Array(dtype or name, shape, None, ("unsupported_dtype", problem))
    if not tensor.is_contiguous() or tensor.is_conj() or tensor.is_neg():
        return Array(dtype, shape, None, _not_contiguous(".contiguous()"))
    # Its bytes have a type that DLPack knows whatever the tensor's own.
    flat = tensor.detach().reshape(-1)
    flat = flat.view(_torch_uint8()) if flat.numel() else flat.new_empty(0, dtype=_torch_uint8())
    return Array(dtype, shape, _core.DlpackArray(flat.__dlpack__()))


def _torch_uint8() -> Any:
    import sys

    return sys.modules["torch"].uint8


def _dlpack(value: Any) -> Array:
    device, _ = value.__dlpack_device__() if hasattr(value, "__dlpack_device__") else (_CPU, 0)
    if device not in {_CPU, _CUDA_HOST}:
        reason = "is on a GPU or another device. Copy it to the CPU, for example with .cpu()."
        return Array(problem=("unsupported_dtype", reason))
    array = _core.DlpackArray(value.__dlpack__())
    (code, bits), shape = array.kind, tuple(array.shape)
    name = _DLPACK_OTHERS.get((code, bits)) or f"{_DLPACK.get(code, 'type')}{bits}"
    dtype = DTYPES.get(name)
    if dtype is None:
        reason = f"has dtype '{name}', which is no weights' type. Convert it to float32."
        return Array(name, shape, None, ("unsupported_dtype", reason))
    if not array.contiguous:
        return Array(dtype, shape, None, _not_contiguous("a contiguous copy"))
    return Array(dtype, shape, array)


def _not_contiguous(remedy: str) -> Problem:
    return "not_contiguous", f"is not contiguous. Use {remedy} to fix."


def check_names(arrays: Mapping[str, Any]) -> None:
    """Raise TypeError for a name that is no string."""
    for name in arrays:
        if not isinstance(name, str):
            raise TypeError(f"layer names must be strings, got {name!r}.")


def mapping_to_table(
    arrays: Mapping[str, Any], check: Callable[[Array], Problem | None] | None = None
) -> ArrowStreamExportable:
    """Return the weights relation of named arrays.

    One that can't be read, or for which `check` gives an error code and a reason, has null data and
    that error, which raises where failed rows do.

    Raises:
        TypeError: A name is no string.
    """
    check_names(arrays)
    weights: ArrowStreamExportable = _core.named_weights(
        [_named(name, read(value), check) for name, value in arrays.items()]
    )
    return weights


@functools.cache
def safetensors_dtype(dtype: np.dtype[Any]) -> str | None:
    """safetensors' name of a NumPy or ml_dtypes type; None where it has none."""
    return DTYPES.get(dtype.name)


class _Named(NamedTuple):
    """A layer as the core reads it."""

    layer_name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    bytes: Any
    error_code: str | None = None
    error_message: str | None = None


def _named(name: str, array: Array, check: Callable[[Array], Problem | None] | None) -> _Named:
    problem = array.problem or (check(array) if check else None)
    if problem is None:
        return _Named(name, array.dtype, array.shape, array.bytes)
    code, reason = problem
    layer = f"layer '{name}'"
    if array.shape is not None:
        layer += f" ({array.dtype} {list(array.shape)})"
    return _Named(name, array.dtype, array.shape, None, code, f"{layer}: {reason}")
