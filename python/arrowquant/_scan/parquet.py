"""Parquet files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from arrowquant._scan.tables import Groups, TableScan


class ParquetScan(TableScan):
    """Read a row group at a time."""

    @contextmanager
    def _open_file(self) -> Iterator[Groups]:
        source = self._source()
        with pq.ParquetFile(source) as file:
            yield _RowGroups(file)


class _RowGroups:
    def __init__(self, file: pq.ParquetFile) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema_arrow

    def each(self) -> Iterable[int]:
        return range(self._file.num_row_groups)

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        batches: list[pa.RecordBatch] = self._file.read_row_group(group, columns=names).to_batches()
        return batches

    def bytes(self, group: int) -> int:
        size: int = self._file.metadata.row_group(group).total_byte_size
        return size
