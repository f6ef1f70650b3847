"""Parquet and Arrow IPC files."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq

from arrowquant import _core
from arrowquant._scan.base import Piece, Scan

_FLOATS = {pa.float64(): "F64", pa.float32(): "F32", pa.float16(): "F16"}


class _Groups(Protocol):
    """An open file of groups of rows."""

    schema: pa.Schema
    count: int

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        """The rows of one group, only these columns."""

    def bytes(self, group: int) -> int:
        """About how many bytes a group has."""


class TableScan(Scan):
    """A file of groups of rows, with columns of its own beside those of the relation."""

    @abstractmethod
    def _open(self) -> AbstractContextManager[_Groups]:
        """The open file."""

    @property
    def schema(self) -> pa.Schema:
        with self._open() as file:
            return _Columns(file.schema, with_data=True).schema

    def reader(self) -> pa.RecordBatchReader:
        return self._read(None, with_data=True)

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return self._read(range(position, position + count), with_data=True)

    def without_data(self) -> pa.RecordBatchReader:
        return self._read(None, with_data=False)

    def _read(self, groups: range | None, *, with_data: bool) -> pa.RecordBatchReader:
        with self._open() as file:
            columns = _Columns(file.schema, with_data=with_data)

        def batches() -> Iterator[pa.RecordBatch]:
            with self._open() as file:
                for group in range(file.count) if groups is None else groups:
                    yield from self._group(file, group, columns)

        return pa.RecordBatchReader.from_batches(columns.schema, batches())

    def _group(self, file: _Groups, group: int, columns: _Columns) -> Iterator[pa.RecordBatch]:
        for batch in file.read(group, columns.stored):
            yield columns.complete(batch, self.path.name, self.setup.part_bytes)

    def pieces(self) -> list[Piece]:
        pieces = []
        with self._open() as file:
            columns = _Columns(file.schema, with_data=False)
            for group in range(file.count):
                parts: list[int] = []
                for batch in self._group(file, group, columns):
                    parts += _part_indices(batch)
                begun, size = parts.count(0), file.bytes(group)
                continues = bool(parts) and parts[0] > 0
                pieces.append(Piece(self.key, group, len(parts), begun, size, continues=continues))
        return pieces


def _part_indices(batch: pa.RecordBatch) -> list[int]:
    """Which part of its layer each row is; columns of that name that hold no numbers are others."""
    names = batch.schema.names
    if "part_index" not in names or not pa.types.is_integer(batch["part_index"].type):
        return [0] * batch.num_rows
    return [index or 0 for index in batch["part_index"].to_pylist()]


class _Columns:
    """Which columns are read and what is added to them.

    Without data, a plan needs shapes and dtypes: where these don't tell, data are read after all.
    """

    def __init__(self, stored: pa.Schema, *, with_data: bool) -> None:
        names, data = stored.names, stored.field("data").type if "data" in stored.names else None
        self._is_quantized = {"scales", "zero_points", "row_index"} <= set(names)
        self._dtype = _FLOATS.get(data.value_type) if data is not None and _is_list(data) else None
        self._cuttable = data is None or not pa.types.is_fixed_size_list(data)
        suffices = "shape" in names and ("dtype" in names or self._dtype is not None)
        drop = not with_data and suffices and data is not None
        payload = {"data", "scales", "zero_points"} if self._is_quantized else {"data"}
        self.stored = [name for name in names if not (drop and name in payload)]
        self._lacks_dtype = drop and "dtype" not in names
        schema = pa.schema([stored.field(name) for name in self.stored], stored.metadata)
        if self._lacks_dtype:
            schema = schema.append(pa.field("dtype", pa.string()))
        if not self._is_quantized:
            schema = pa.schema(_core.parts_schema(schema))
            if "source_file" not in schema.names:
                schema = schema.append(pa.field("source_file", pa.string()))
        self.schema = schema

    def complete(self, batch: pa.RecordBatch, file: str, part_bytes: int) -> pa.RecordBatch:
        """The batch with its large layers in parts, and with the columns that it lacks."""
        if self._is_quantized:
            return batch
        if self._lacks_dtype:
            dtypes = pa.repeat(pa.scalar(self._dtype, pa.string()), batch.num_rows)
            batch = batch.append_column("dtype", dtypes)
        batch = pa.record_batch(_core.split_parts(batch, part_bytes, self._cuttable))
        if "source_file" not in batch.schema.names:
            files = pa.repeat(pa.scalar(file, pa.string()), batch.num_rows)
            batch = batch.append_column("source_file", files)
        return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)


def _is_list(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )


class ParquetScan(TableScan):
    """Read a row group at a time."""

    @contextmanager
    def _open(self) -> Iterator[_Groups]:
        with pq.ParquetFile(self.path, memory_map=self.setup.mmap) as file:
            yield _RowGroups(file)


class _RowGroups:
    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema_arrow
        self.count: int = file.num_row_groups

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = self._file.read_row_group(group, columns=names).to_batches()
        return batches

    def bytes(self, group: int) -> int:
        size: int = self._file.metadata.row_group(group).total_byte_size
        return size


class IpcScan(TableScan):
    """Mapped; uncompressed buffers come without a copy."""

    @contextmanager
    def _open(self) -> Iterator[_Groups]:
        path = str(self.path)
        with (
            pa.memory_map(path) if self.setup.mmap else pa.OSFile(path) as source,
            pa.ipc.open_file(source) as file,
        ):
            yield _Batches(file)


class _Batches:
    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema
        self.count: int = file.num_record_batches

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        batch = self._file.get_batch(group)
        batch.validate()  # Offsets of a damaged file may point anywhere.
        return [batch.select(names)]

    def bytes(self, group: int) -> int:
        size: int = self._file.get_batch(group).nbytes
        return size
