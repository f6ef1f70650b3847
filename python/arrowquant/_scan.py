"""`aq.scan`: checkpoints as streams of the weights relation."""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from arrowquant import _core


def scan(source: str | os.PathLike[str], *, mmap: bool = True) -> Scan:
    """Return the weights of a file as a lazy Arrow stream, which reopens the file at each use.

    Args:
        source: A safetensors file (`.safetensors`), a Parquet file (`.parquet`) or an Arrow IPC
            file (`.arrow`, `.feather`, `.ipc`).
        mmap: Map the file rather than read it: safetensors and uncompressed IPC data then come
            without a copy, and pages that are never touched are never read. A mapped file that
            is cut short meanwhile kills the process (SIGBUS); `mmap=False` avoids that.

    Returns:
        A `Scan`: columns `layer_name, dtype, shape, data, part_index, part_count, part_offset,
        layer_shape, source_file`. Files that hold other columns keep theirs, and a quantized
        relation comes as it was written.

    Raises:
        OSError: The file can't be read, or its header contradicts itself.
        ValueError: The file's kind can't be told from its name.
    """
    path = Path(source)
    kinds: dict[str, type[Scan]] = {
        ".safetensors": _Safetensors,
        ".parquet": _Parquet,
        ".arrow": _Ipc,
        ".feather": _Ipc,
        ".ipc": _Ipc,
    }
    kind = kinds.get(path.suffix.lower())
    if kind is None:
        raise ValueError(f"{path}: unknown kind of file. aq.scan reads {', '.join(kinds)}.")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file.")
    return kind(path, mmap=mmap)


class Scan(ABC):
    """A checkpoint on disk as a weights relation. Nothing is read before a batch is asked for."""

    data_bytes: int | None = None
    """Bytes of all weights, where that is known without reading them."""

    layers: int | None = None
    """How many there are, likewise."""

    def __init__(self, path: Path, *, mmap: bool) -> None:
        self.path = path
        self._mmap = mmap

    @property
    @abstractmethod
    def schema(self) -> pa.Schema:
        """The relation's schema."""

    @abstractmethod
    def reader(self) -> pa.RecordBatchReader:
        """Open the file anew and return its batches."""

    @abstractmethod
    def without_data(self) -> Any:
        """Return the relation without `data` where the other columns suffice for a plan."""

    def __arrow_c_schema__(self) -> object:
        """Return a PyCapsule of the relation's Arrow C schema."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of an Arrow C stream, a new one each time."""
        return self.reader().__arrow_c_stream__(requested_schema)

    def __iter__(self) -> Iterator[pa.RecordBatch]:
        return iter(self.reader())

    def __repr__(self) -> str:
        return f"aq.scan({str(self.path)!r})"


class _Safetensors(Scan):
    """Read by the core; the file's bytes are the column."""

    def __init__(self, path: Path, *, mmap: bool) -> None:
        super().__init__(path, mmap=mmap)
        file = self._open()  # A broken header is a wrong call, and raises here.
        self.data_bytes, self.layers = file.data_bytes, len(file)

    def _open(self) -> _core.SafetensorsFile:
        return _core.SafetensorsFile(self.path, self._mmap)

    @property
    def schema(self) -> pa.Schema:
        return self.reader().schema

    def reader(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_stream(self._open().reader(True))

    def without_data(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_stream(self._open().reader(False))

    def __repr__(self) -> str:
        file = self._open()
        size = f"{len(file)} tensors, {file.data_bytes:,} bytes of weights"
        return f"aq.scan({str(self.path)!r}): {size}"


_PARTS = pa.schema(
    {
        "part_index": pa.int32(),
        "part_count": pa.int32(),
        "part_offset": pa.int64(),
        "layer_shape": pa.large_list(pa.int64()),
        "source_file": pa.string(),
    }
)


def _is_quantized(schema: pa.Schema) -> bool:
    return {"scales", "zero_points", "row_index"} <= set(schema.names)


def _with_parts(schema: pa.Schema) -> pa.Schema:
    """The schema with the part columns that it lacks; a quantized relation stays as it is."""
    if _is_quantized(schema):
        return schema
    missing = [field for field in _PARTS if field.name not in schema.names]
    return pa.schema([*schema, *missing], schema.metadata)


def _add_parts(batch: pa.RecordBatch, schema: pa.Schema, file: str) -> pa.RecordBatch:
    """Fill in the part columns: each layer is whole."""
    whole: dict[str, Any] = {"part_index": 0, "part_count": 1, "part_offset": 0}
    whole["source_file"] = file
    columns = []
    for field in schema:
        if field.name in batch.schema.names:
            columns.append(batch[field.name])
        elif field.name == "layer_shape":
            shapes = batch["shape"].cast(field.type) if "shape" in batch.schema.names else None
            columns.append(shapes or pa.nulls(batch.num_rows, field.type))
        else:
            columns.append(pa.repeat(pa.scalar(whole[field.name], field.type), batch.num_rows))
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class _Parquet(Scan):
    """Read a row group at a time."""

    def _open(self) -> pq.ParquetFile:
        return pq.ParquetFile(self.path, memory_map=self._mmap)

    @property
    def schema(self) -> pa.Schema:
        with self._open() as file:
            return _with_parts(file.schema_arrow)

    def reader(self) -> pa.RecordBatchReader:
        return self._reader(None)

    def without_data(self) -> Any:
        names = self.schema.names
        if "shape" in names and "dtype" in names:
            return self._reader([name for name in names if name != "data"])
        return self

    def _reader(self, names: list[str] | None) -> pa.RecordBatchReader:
        with self._open() as file:
            stored = file.schema_arrow
        if names is not None:
            stored = pa.schema([field for field in stored if field.name in names], stored.metadata)
        schema = _with_parts(stored)

        def batches() -> Iterator[pa.RecordBatch]:
            with self._open() as file:
                for group in range(file.num_row_groups):
                    table = file.read_row_group(group, columns=stored.names)
                    for batch in table.to_batches():
                        yield _add_parts(batch, schema, self.path.name)

        return pa.RecordBatchReader.from_batches(schema, batches())


class _Ipc(Scan):
    """Mapped; uncompressed buffers come without a copy."""

    def _open(self) -> pa.ipc.RecordBatchFileReader:
        source = pa.memory_map(str(self.path)) if self._mmap else pa.OSFile(str(self.path))
        return pa.ipc.open_file(source)

    @property
    def schema(self) -> pa.Schema:
        with self._open() as file:
            return _with_parts(file.schema)

    def reader(self) -> pa.RecordBatchReader:
        schema = self.schema

        def batches() -> Iterator[pa.RecordBatch]:
            with self._open() as file:
                for index in range(file.num_record_batches):
                    batch = file.get_batch(index)
                    batch.validate()  # Offsets of a damaged file may point anywhere.
                    yield _add_parts(batch, schema, self.path.name)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def without_data(self) -> Any:
        return self  # Mapped pages of data are not touched unless they are read.
