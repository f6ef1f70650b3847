"""The one rule for "any Arrow object": what counts as one, and how it is read."""

from __future__ import annotations

import io
import os
from collections.abc import Container, Iterator, Mapping
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._inputs.loaded import is_a


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


def is_batch(relation: Any) -> bool:
    """Whether it is one record batch to Arrow."""
    return hasattr(relation, "__arrow_c_array__")


def is_stream(relation: Any) -> bool:
    """Whether it is a stream of record batches to Arrow."""
    return hasattr(relation, "__arrow_c_stream__")


def is_path(value: Any) -> bool:
    """Whether it names a file: a path, a list of paths, or an open file."""
    if isinstance(value, (list, tuple)):
        return bool(value) and all(map(is_path, value))
    return isinstance(value, (str, os.PathLike, io.IOBase))


def as_arrow(value: Any, what: str, columns: Mapping[str, str] | None = None) -> Any:
    """Return any Arrow object as one that the core can import.

    Args:
        value: A record batch or a stream of such to Arrow's PyCapsule interface; a Polars lazy
            frame, a pyarrow Dataset or Scanner, a Hugging Face Dataset, a Delta table; a path, or
            whatever else `aq.scan` takes.
        what: What to call it in messages.
        columns: Names of its columns that are to be others.

    Raises:
        TypeError: It is none of these; the message says what of it would be.
        ValueError: A column to rename is not there.
    """
    value = _readable(value, what)
    if columns is not None:
        value = _renamed(value, columns)
    if isinstance(value, pa.RecordBatchReader):
        # Iterated, its exceptions and each batch's own schema reach us as they are.
        return _core.Batches(value.schema, iter(value))
    return value


def as_reader(value: Any, what: str) -> pa.RecordBatchReader:
    """Return any Arrow object as pyarrow's reader."""
    value = _readable(value, what)
    if isinstance(value, pa.RecordBatchReader):
        return value
    if is_batch(value):
        batch = pa.record_batch(value)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    return pa.RecordBatchReader.from_stream(value)


def as_table(value: Any, what: str = "the relation") -> pa.Table:
    """Return any Arrow object as a table, without a copy; `pa.table` would import pandas."""
    return value if isinstance(value, pa.Table) else as_reader(value, what).read_all()


def _readable(value: Any, what: str) -> Any:
    """The object itself where Arrow can import it, else a reader of it."""
    if isinstance(value, pa.RecordBatchReader):
        return value
    reader = _reader_of(value)
    if reader is not None:
        return reader
    if is_batch(value) or is_stream(value):
        return value
    names = "a dictionary of names and arrays, a torch module, " if what == "weights" else ""
    raise TypeError(
        f"{what} must be {names}a table, a frame or a stream that speaks Arrow's PyCapsule "
        f"interface (pyarrow, Polars, DuckDB, pandas, ...) or a path, got {type(value).__name__}."
        f"{_way_to_arrow(value)}"
    )


def _reader_of(value: Any) -> pa.RecordBatchReader | None:
    """The reader of what is lazy, on disk or only wraps a table: it is read batch by batch."""
    from arrowquant._scan import Scan, scan

    if isinstance(value, Scan) or is_path(value):
        return scan(value).reader()
    if is_a(value, "polars", "LazyFrame"):
        return lazy_reader(value)
    if is_a(value, "datasets", "Dataset"):
        return value.with_format("arrow")[:].to_reader()
    if hasattr(value, "to_pyarrow_dataset") and not is_stream(value):  # Delta tables.
        value = value.to_pyarrow_dataset()
    if is_a(value, "pyarrow.dataset", "Dataset"):
        value = value.scanner()
    if is_a(value, "pyarrow.dataset", "Scanner"):
        reader: pa.RecordBatchReader = value.to_reader()
        return reader
    return None


_WAYS = (
    "to_arrow",
    "to_arrow_table",
    "fetch_arrow_table",
    "to_pyarrow_table",
    "to_pyarrow",
    "arrow",
    "to_table",
    "to_batches",
    "scan",
    "to_pandas",
    "to_polars",
    "collect",
)
_ATTRIBUTES = ("data", "table", "df")


def _way_to_arrow(value: Any) -> str:
    """Which method or attribute of an object that only wraps a table gives it."""
    for name in _WAYS:
        if callable(getattr(value, name, None)):
            return f" Hand over what its .{name}() returns."
    for name in _ATTRIBUTES:
        found = getattr(value, name, None)
        if is_batch(found) or is_stream(found):
            return f" Hand over its .{name}."
    return ""


def _renamed(value: Any, columns: Mapping[str, str]) -> Any:
    """The relation with some columns' names changed."""
    if is_batch(value):
        batch = pa.record_batch(value)
        return batch.rename_columns(_new_names(batch.schema, columns))
    reader = as_reader(value, "weights")
    names = _new_names(reader.schema, columns)
    fields = [field.with_name(name) for field, name in zip(reader.schema, names, strict=True)]
    schema = pa.schema(fields, reader.schema.metadata)
    batches = (pa.RecordBatch.from_arrays(batch.columns, schema=schema) for batch in reader)
    return pa.RecordBatchReader.from_batches(schema, batches)


def _new_names(schema: pa.Schema, columns: Mapping[str, str]) -> list[str]:
    if not isinstance(columns, Mapping):
        raise TypeError(f"columns must map names to names, got {type(columns).__name__}.")
    for name in columns:
        if name not in schema.names:
            known = ", ".join(map(repr, schema.names))
            raise ValueError(f"columns: there is no column {name!r}; there are {known}.")
    names = [columns.get(name, name) for name in schema.names]
    twice = {name for name in names if names.count(name) > 1}
    if twice:
        raise ValueError(f"columns: two columns would be called {min(twice)!r}. Rename one more.")
    return names


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


def named(batch: pa.RecordBatch, names: pa.Array) -> pa.RecordBatch:
    """Return the rows whose layers have these names; without a copy where all have."""
    import pyarrow.compute as pc

    wanted = pc.is_in(batch["layer_name"], names)
    return batch if wanted.true_count == batch.num_rows else batch.filter(wanted)


_MOST_RUNS = 32
"""Rows in more stretches are copied together rather than handed out one by one."""


def named_runs(
    batch: pa.RecordBatch, names: Container[str], of: Any = None
) -> list[pa.RecordBatch]:
    """The rows whose layers have these names, as stretches of the batch that are not copied.

    Args:
        batch: With a `layer_name`.
        names: The names, as a set: they may be many more than the batch has rows.
        of: The names of the rows, where these are not those of their layers.
    """
    found = (batch["layer_name"] if of is None else of).to_pylist()
    wanted = np.fromiter((name in names for name in found), bool, len(found))
    edges = np.flatnonzero(np.diff(wanted, prepend=False, append=False))
    if len(edges) > 2 * _MOST_RUNS:
        return [
            pa.record_batch(_core.rows_where(batch, wanted.tolist()))
        ]  # pyarrow has none of views.
    pairs = zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True)
    return [batch.slice(start, end - start) for start, end in pairs]


def is_sized(weights: Any) -> bool:
    """Whether all of it is at hand, so that reading it twice costs nothing."""
    return (
        isinstance(weights, Mapping)
        or hasattr(weights, "num_rows")  # pyarrow's, arro3's and Hugging Face's tables.
        or is_a(weights, "polars", "DataFrame")
        or is_a(weights, "pandas", "DataFrame")
        or is_a(weights, "torch.nn", "Module")
    )
