"""What users hand in, as an Arrow stream: any object that speaks Arrow, or a mapping to NumPy."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa

from arrowquant import _core


class ArrowStreamExportable(Protocol):
    """Anything with an Arrow stream: pyarrow, Polars, DuckDB, DataFusion, pandas 3, nanoarrow."""

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of an Arrow C stream."""
        ...


class ArrowArrayExportable(Protocol):
    """Anything that is one Arrow record batch."""

    def __arrow_c_array__(self, requested_schema: object | None = None) -> tuple[object, object]:
        """Return PyCapsules of an Arrow C schema and array."""
        ...


Weights = ArrowStreamExportable | ArrowArrayExportable | Mapping[str, Any]


def is_batch(relation: Any) -> bool:
    """Whether it is one record batch to Arrow."""
    return hasattr(relation, "__arrow_c_array__")


def is_stream(relation: Any) -> bool:
    """Whether it is a stream of record batches to Arrow."""
    return hasattr(relation, "__arrow_c_stream__")


def as_arrow(weights: Any) -> Any:
    """Return an object that the core can import.

    Raises:
        TypeError: It speaks no Arrow and is no mapping, or a mapping's name is no string.
    """
    if isinstance(weights, Mapping):
        return mapping_to_table(weights)
    if is_batch(weights) or is_stream(weights):
        return weights
    stream = _stream_of(weights)
    if stream is not None:
        return stream
    raise TypeError(
        "weights must speak the Arrow PyCapsule interface (a pyarrow, Polars, DuckDB or pandas "
        f"table, an aq.scan, ...) or map names to NumPy arrays, got {type(weights).__name__}."
    )


def as_relation(relation: Any) -> Any:
    """Return a quantized relation as an object that the core can import."""
    if is_batch(relation) or is_stream(relation):
        return relation
    stream = _stream_of(relation)
    return relation if stream is None else stream


def _stream_of(weights: Any) -> pa.RecordBatchReader | None:
    """What is lazy and speaks no Arrow itself, as a stream: it is read once, batch by batch."""
    module, name = type(weights).__module__.partition(".")[0], type(weights).__name__
    if module == "polars" and name == "LazyFrame":
        return lazy_reader(weights)
    if module == "pyarrow":
        if hasattr(weights, "scanner"):
            weights = weights.scanner()
        if hasattr(weights, "to_reader"):
            return weights.to_reader()
    return None


def lazy_schema(frame: Any) -> pa.Schema:
    """The Arrow schema of a Polars LazyFrame."""
    import polars as pl

    schema: pa.Schema = pl.DataFrame(schema=frame.collect_schema()).to_arrow().schema
    return schema


def lazy_reader(frame: Any) -> pa.RecordBatchReader:
    """The batches of a Polars LazyFrame, which its streaming engine makes as they are read."""
    schema = lazy_schema(frame)

    def batches() -> Iterator[pa.RecordBatch]:
        for part in frame.collect_batches(maintain_order=True, lazy=True):
            yield from part.to_arrow().cast(schema).to_batches()

    return pa.RecordBatchReader.from_batches(schema, batches())


def as_table(data: Any) -> pa.Table:
    """Return any Arrow object as a table, without a copy; `pa.table` would import pandas."""
    if isinstance(data, pa.Table):
        return data
    if is_stream(data):
        return pa.RecordBatchReader.from_stream(data).read_all()
    return pa.Table.from_batches([pa.record_batch(data)])


def named(batch: pa.RecordBatch, names: pa.Array) -> pa.RecordBatch:
    """Return the rows whose layers have these names; without a copy where all have."""
    import pyarrow.compute as pc

    wanted = pc.is_in(batch["layer_name"], names)
    return batch if wanted.true_count == batch.num_rows else batch.filter(wanted)


def is_sized(weights: Any) -> bool:
    """Whether all of it is at hand, so that reading it twice costs nothing."""
    module, name = type(weights).__module__.partition(".")[0], type(weights).__name__
    return (
        isinstance(weights, (pa.Table, pa.RecordBatch))
        or (module in {"polars", "pandas"} and name == "DataFrame")
        or (module == "arro3" and name in {"Table", "RecordBatch"})
    )


Problem = tuple[str, str] | None
"""An error code and the reason, or nothing."""


def array_problem(array: Any) -> Problem:
    """Why an object can't be read as it lies in memory."""
    if not isinstance(array, np.ndarray):
        return "unsupported_dtype", (
            f"Expected numpy array, got {type(array).__name__}. Convert it with np.asarray(...)."
        )
    if isinstance(array, np.ma.MaskedArray):
        return "unsupported_dtype", (
            "is a masked array, whose mask would be lost. Fill it with arr.filled(...)."
        )
    if array.dtype.byteorder == ">":
        return "unsupported_dtype", (
            f"is big-endian ('{array.dtype.str}'). Convert it with "
            "arr.astype(arr.dtype.newbyteorder('='))."
        )
    if safetensors_dtype(array.dtype) is None:
        return "unsupported_dtype", (
            f"has dtype '{array.dtype}', which is no weights' type. Convert it with "
            "arr.astype(np.float32)."
        )
    if not array.flags.c_contiguous:
        return "not_contiguous", "is not contiguous. Use np.ascontiguousarray(arr) to fix."
    return None


def check_names(arrays: Mapping[str, Any]) -> None:
    """Raise TypeError for a name that is no string."""
    for name in arrays:
        if not isinstance(name, str):
            raise TypeError(f"layer names must be strings, got {name!r}.")


def mapping_to_table(
    arrays: Mapping[str, Any], problem: Callable[[Any], Problem] = array_problem
) -> ArrowStreamExportable:
    """Return the weights relation of named arrays, without a copy of their elements.

    An object for which `problem` gives an error code and a reason has null data and that error.

    Raises:
        TypeError: A name is no string.
    """
    check_names(arrays)
    layers = [_named(name, array, problem(array)) for name, array in arrays.items()]
    weights: ArrowStreamExportable = _core.named_weights(layers)
    return weights


@functools.cache
def safetensors_dtype(dtype: np.dtype[Any]) -> str | None:
    """safetensors' name of a NumPy or ml_dtypes type; None where it has none."""
    return DTYPES.get(dtype.name)


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


class _Named(NamedTuple):
    """A layer as the core reads it."""

    layer_name: str
    dtype: str | None
    shape: tuple[int, ...] | None
    bytes: np.ndarray[Any, Any] | None
    error_code: str | None = None
    error_message: str | None = None


def _named(name: str, array: Any, problem: Problem) -> _Named:
    dtype = shape = None
    if isinstance(array, np.ndarray):
        dtype, shape = safetensors_dtype(array.dtype) or array.dtype.name, array.shape
    if problem is None:
        return _Named(name, dtype, shape, np.asarray(array).reshape(-1).view(np.uint8))
    code, reason = problem
    layer = f"layer '{name}'" if shape is None else f"layer '{name}' ({dtype} {list(shape)})"
    return _Named(name, dtype, shape, None, code, f"{layer}: {reason}")
