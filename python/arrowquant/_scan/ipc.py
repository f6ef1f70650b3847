"""Arrow IPC files: the file format, and the stream format."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
import pyarrow.ipc

from arrowquant._scan.tables import Groups, TableScan


class IpcScan(TableScan):
    """The file or the stream format. Mapped; uncompressed buffers come without a copy."""

    @contextmanager
    def _open_file(self) -> Iterator[Groups]:
        with self._source() as source:
            start = source.read(len(_IPC_FILE))
            source.seek(0)
            if start == _IPC_FILE:
                with pa.ipc.open_file(source) as file:
                    yield _Batches(file)
            else:
                yield _Stream(source)


_IPC_FILE = b"ARROW1"
"""How the file format begins; a stream begins with its first message."""


class _Batches:
    def __init__(self, file: Any) -> None:
        self._file = file
        self.schema: pa.Schema = file.schema

    def each(self) -> Iterable[int]:
        return range(self._file.num_record_batches)

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        batch = self._file.get_batch(group).select(names)
        batch.validate(full=True)  # Offsets of a damaged file may point anywhere.
        return [batch]

    def bytes(self, group: int) -> int:
        size: int = self._file.get_batch(group).nbytes
        return size


_END = b"\xff\xff\xff\xff\0\0\0\0"
"""How a stream ends that was written to its end."""


class _Stream:
    """Batches that follow each other: one that was passed is read again from the beginning."""

    def __init__(self, source: Any) -> None:
        self._source = source
        source.seek(max(source.size() - len(_END), 0))
        if source.read() != _END:
            raise EOFError(
                "it ends without the mark of a stream's end, so batches may be missing. Write it "
                "anew; or read it with pyarrow.ipc.open_stream, and hand over the table."
            )
        self._open()
        self.schema: pa.Schema = self._reader.schema

    def _open(self) -> None:
        self._source.seek(0)
        self._reader = pa.ipc.open_stream(self._source)
        self._at = -1
        self._batch: pa.RecordBatch | None = None

    def _next(self) -> bool:
        """Go to the next batch, if there is one."""
        try:
            self._batch = self._reader.read_next_batch()
        except StopIteration:
            return False
        self._at += 1
        return True

    def each(self) -> Iterable[int]:
        self._open()
        while self._next():
            yield self._at

    def _go_to(self, group: int) -> pa.RecordBatch:
        if group < self._at:
            self._open()
        while self._at < group:
            if not self._next():
                raise EOFError(f"it has {self._at + 1} batches, and none numbered {group}")
        assert self._batch is not None
        return self._batch

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        batch = self._go_to(group).select(names)
        batch.validate(full=True)  # As those of a file.
        return [batch]

    def bytes(self, group: int) -> int:
        size: int = self._go_to(group).nbytes
        return size
