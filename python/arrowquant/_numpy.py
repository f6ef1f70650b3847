"""`aq.to_numpy`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._errors import QuantizationWarning
from arrowquant._inputs import DTYPES, as_arrow, as_table
from arrowquant._layers import LayerDict


def to_numpy(weights: Any) -> LayerDict:
    """Return a weights relation with binary data as a dictionary of NumPy arrays.

    Arrays are read-only views of the relation's buffers. BF16 and F8 need ml_dtypes
    (`pip install 'arrowquant[bfloat16]'`), or `aq.dequantize(..., dtype="F32")`.

    Args:
        weights: An `aq.dequantize` result, an `aq.scan`, or any table `layer_name, dtype, shape,
            data`.

    Returns:
        Name to array, in the relation's order. Rows with null data are left out; the dictionary's
        `failed` is a table of them.

    Raises:
        ValueError: A name comes twice, a dtype has no NumPy type, or shape and data disagree.

    Warns:
        QuantizationWarning: Rows have no data.
    """
    table = as_table(as_arrow(weights))
    without = [_missing(batch) for batch in table.to_batches()]
    missing = pa.Table.from_batches(without, table.schema).drop_columns(["data"])
    arrays = LayerDict(failed=missing)
    for batch in table.to_batches():
        data = batch["data"].cast(pa.large_binary())
        offsets, values = data.buffers()[1:]
        ends = np.frombuffer(offsets, np.int64)[data.offset : data.offset + len(data) + 1]
        names, dtypes = batch["layer_name"].to_pylist(), batch["dtype"].to_pylist()
        for row, shape in enumerate(batch["shape"].to_pylist()):
            if not data[row].is_valid:
                continue
            name, dtype = names[row], _numpy_dtype(names[row], dtypes[row])
            if name in arrays:
                raise ValueError(f"layer '{name}' comes twice, but names must be unique here.")
            span = memoryview(values or b"")[int(ends[row]) : int(ends[row + 1])]
            arrays[name] = np.frombuffer(span, dtype).reshape(shape)
    if missing.num_rows:
        names = ", ".join(repr(name) for name in missing["layer_name"].to_pylist())
        message = f"without data, and so left out: {names}."
        warnings.warn(QuantizationWarning(message, arrays), stacklevel=2)
    return arrays


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
                f"layer '{layer}': {dtype} needs ml_dtypes (pip install 'arrowquant[bfloat16]'), "
                "or dequantize with dtype='F32'."
            ) from error
        found: np.dtype[Any] = np.dtype(getattr(ml_dtypes, name))
        return found
    return np.dtype(name)
