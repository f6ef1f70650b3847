"""safetensors files, read by the core; the file's bytes are the column."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa

from arrowquant import _core
from arrowquant._scan.base import Piece, Scan, Setup


class SafetensorsScan(Scan):
    """One file."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        super().__init__(path, setup, given)
        file = self.open()  # A broken header is a wrong call, and raises here.
        self.data_bytes, self.layers, self.row_count = file.data_bytes, len(file), file.row_count

    def open(self) -> _core.SafetensorsFile:
        """The file with its header checked."""
        if self.given is not None:
            data = np.frombuffer(self.given, np.uint8)
            return _core.SafetensorsFile.given(self.path, data, self.setup.part_bytes)
        return _core.SafetensorsFile(self.path, self.setup.mmap, self.setup.part_bytes)

    @property
    def schema(self) -> pa.Schema:
        return self.stretch(self.key, 0, 0).schema

    def reader(self) -> pa.RecordBatchReader:
        file = self.open()
        return pa.RecordBatchReader.from_stream(file.reader(True, 0, file.row_count))

    def without_data(self) -> pa.RecordBatchReader:
        file = self.open()
        return pa.RecordBatchReader.from_stream(file.reader(False, 0, file.row_count))

    def pieces(self) -> list[Piece]:
        return [
            Piece(self.key, position, 1, int(part == 0), size, continues=part > 0)
            for position, (_, part, size) in enumerate(self.open().rows())
        ]

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return pa.RecordBatchReader.from_stream(self.open().reader(True, position, count))
