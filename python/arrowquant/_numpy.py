"""`aq.to_numpy`."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._inputs import weights_table
from arrowquant._inputs.arrays import DTYPES
from arrowquant._layers import LayerDict


def to_numpy(weights: Any) -> LayerDict:
    """Return a weights relation with binary data as a dictionary of NumPy arrays.

    Arrays are read-only views of the relation's buffers, but for layers in parts, which are put
    together in memory of their own. BF16 and F8 need ml_dtypes
    (`pip install ml_dtypes`), or `aq.dequantize(..., dtype="F32")`.

    Args:
        weights: An `aq.dequantize` result, an `aq.scan`, or any table `layer_name, dtype, shape,
            data`.

    Returns:
        Name to array, in the relation's order. Rows with null data are left out; the dictionary's
        `failed` is a table of them.

    Raises:
        ValueError: A name comes twice, a layer lacks a part, a dtype has no NumPy type, or shape
            and data disagree.

    Warns:
        QuantizationWarning: Rows have no data.
    """
    table = weights_table(weights)
    if "scales" in table.schema.names:
        raise ValueError(
            "to_numpy needs weights, and these are quantized. Decode them first: "
            "aq.to_numpy(aq.dequantize(...))."
        )
    without = [_missing(batch) for batch in table.to_batches()]
    missing = pa.Table.from_batches(without, table.schema).drop_columns(["data"])
    arrays, parts = LayerDict(failed=missing), _Parts()
    for batch in table.to_batches():
        data = batch["data"].cast(pa.large_binary())
        offsets, values = data.buffers()[1:]
        ends = np.frombuffer(offsets, np.int64)[data.offset : data.offset + len(data) + 1]
        names, dtypes = batch["layer_name"].to_pylist(), batch["dtype"].to_pylist()
        places = _places(batch)
        for row, shape in enumerate(batch["shape"].to_pylist()):
            if not data[row].is_valid:
                continue
            name, dtype = names[row], _numpy_dtype(names[row], dtypes[row])
            span = memoryview(values or b"")[int(ends[row]) : int(ends[row + 1])]
            array = np.frombuffer(span, dtype)
            place = places[row]
            if place is not None:
                parts.add(name, array, place)
                continue
            if name in arrays:
                raise ValueError(f"layer '{name}' comes twice, but names must be unique here.")
            arrays[name] = array.reshape(shape)
    left_out = set(missing["layer_name"].to_pylist())
    arrays |= parts.whole(arrays, left_out)
    order = [name for name in table["layer_name"].to_pylist() if name in arrays]
    arrays = LayerDict({name: arrays[name] for name in order}, failed=missing)
    if missing.num_rows:
        names = ", ".join(repr(name) for name in missing["layer_name"].to_pylist())
        message = f"without data, and so left out: {names}."
        warnings.warn(QuantizationWarning(message, arrays), stacklevel=2)
    return arrays


Place = tuple[int, int, list[int]]
"""How many parts the layer has, where this one begins, and the layer's shape."""


def _places(batch: pa.RecordBatch) -> list[Place | None]:
    """The place of each row that is one part of several."""
    names = ("part_count", "part_offset", "layer_shape")
    if not set(names) <= set(batch.schema.names):
        return [None] * batch.num_rows
    rows = zip(*(batch[name].to_pylist() for name in names), strict=True)
    return [row if (row[0] or 1) > 1 else None for row in rows]


class _Parts:
    """Layers in the making."""

    def __init__(self) -> None:
        self._arrays: dict[str, np.ndarray[Any, Any]] = {}
        self._shapes: dict[str, list[int]] = {}
        self._filled: dict[str, int] = {}

    def add(self, name: str, part: np.ndarray[Any, Any], place: Place) -> None:
        """Put a part into its place."""
        _, offset, shape = place
        array = self._arrays.get(name)
        if array is None:
            array = self._arrays[name] = np.empty(math.prod(shape), part.dtype)
        self._shapes[name] = shape
        if not 0 <= offset <= offset + part.size <= array.size:
            raise ValueError(f"layer '{name}': a part at element {offset} is beyond {shape}.")
        array[offset : offset + part.size] = part
        self._filled[name] = self._filled.get(name, 0) + part.size

    def whole(self, others: LayerDict, left_out: set[str]) -> dict[str, np.ndarray[Any, Any]]:
        """The layers, none of which may lack a part but those that are left out."""
        arrays = {name: array for name, array in self._arrays.items() if name not in left_out}
        for name, array in arrays.items():
            if name in others or self._filled[name] > array.size:
                raise ValueError(f"layer '{name}' comes twice, but names must be unique here.")
            if self._filled[name] < array.size:
                raise ValueError(f"layer '{name}' lacks a part. Filter it out, or supply it.")
            array.flags.writeable = False
        return {name: array.reshape(self._shapes[name]) for name, array in arrays.items()}


def _missing(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows without data; the core filters every type that columns may have."""
    import pyarrow.compute as pc

    absent = pa.record_batch({"error_code": batch["data"].is_null()})
    codes = absent["error_code"].cast(pa.string())
    marks = pa.record_batch({"error_code": pc.if_else(absent["error_code"], codes, None)})
    return pa.record_batch(_core.select(batch, marks, True))


_NAMES = {ours: numpy_name for numpy_name, ours in DTYPES.items()}


def _numpy_dtype(layer: str, dtype: str | None) -> np.dtype[Any]:
    name = _NAMES.get(dtype or "")
    if name is None:
        raise ValueError(f"layer '{layer}': NumPy has no type for dtype '{dtype}'.")
    if name == "bfloat16" or name.startswith("float8"):
        try:
            import ml_dtypes
        except ImportError as error:
            raise ValueError(
                f"layer '{layer}': {dtype} needs ml_dtypes (pip install ml_dtypes), "
                "or dequantize with dtype='F32'."
            ) from error
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    return np.dtype(name)
