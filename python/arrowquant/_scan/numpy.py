"""NumPy's files: an array (`.npy`), or named arrays (`.npz`)."""

from __future__ import annotations

import copy
import math
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Any

import numpy as np
import pyarrow as pa
from numpy.lib import format as npy

from arrowquant import _core
from arrowquant._inputs.arrays import safetensors_dtype
from arrowquant._model import Config, Meaning, Tensor, read_config, resolve
from arrowquant._model.annotate import Annotations
from arrowquant._scan.base import Piece, Scan, Setup, warn_not_mapped

_FIELDS = {
    "layer_name": pa.string(),
    "dtype": pa.string(),
    "shape": pa.large_list(pa.int64()),
    "data": pa.large_binary(),
    "error_code": pa.string(),
    "error_message": pa.string(),
}
_ZIP = b"PK\x03\x04"
_DAMAGE = (ValueError, EOFError, zipfile.BadZipFile, zlib.error, RuntimeError, NotImplementedError)
"""What damage, encryption or an unknown compression raise."""
_NEW_ERRORS = {"arrowquant.new_errors": ""}
"""Nobody was told of them yet."""


@dataclass(frozen=True)
class _Header:
    """What the file says of an array."""

    name: str
    member: zipfile.ZipInfo | None
    """Where in the archive it is."""
    shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def bytes(self) -> int:
        """What its elements take."""
        return int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize

    @property
    def known_dtype(self) -> str | None:
        """safetensors' name of its type; numbers of another byte order are turned around."""
        return safetensors_dtype(self.dtype.newbyteorder("="))

    def check_size(self, available: int) -> None:
        """Refuse a header that lies: it would ask for memory before a byte is read.

        Raises:
            ValueError: It claims more than there is.
        """
        if not self.dtype.hasobject and self.bytes > available:
            raise ValueError(
                f"'{self.name}' claims {self.bytes:,} bytes, but there are {available:,}"
            )

    def problem(self, file: str) -> str | None:
        """Why its elements are no weights."""
        if self.known_dtype is not None:
            return None
        what = "holds Python objects" if self.dtype.hasobject else f"has dtype '{self.dtype}'"
        return (
            f"layer '{self.name}' ({file}): {what}, which is no weights' type. Save it as float32: "
            "np.savez(path, name=arr.astype(np.float32))."
        )


class NumpyScan(Scan):
    """One file. Arrays of another order or byte order are turned into ours as they are read."""

    def __init__(self, path: Path, setup: Setup, given: pa.Buffer | None = None) -> None:
        super().__init__(path, setup, given)
        self._headers = self._read_headers()
        self.data_bytes = sum(header.bytes for header in self._headers)

    def tensors(self) -> list[Tensor]:
        return [
            Tensor(header.name, header.known_dtype or "", list(header.shape))
            for header in self._headers
        ]

    def tensor_elements(self) -> dict[str, int] | None:
        return {header.name: math.prod(header.shape) for header in self._headers}

    def assign(self, meanings: Sequence[Meaning], *, any_stacks: bool) -> None:
        self.__dict__["_annotations"] = Annotations.of(
            self.tensors(), meanings, any_stacks=any_stacks
        )
        self.__dict__.pop("_outlines", None)

    def in_order(self, place: Mapping[str, int], fixed: Collection[str] = ()) -> Scan:
        if self.path.name in fixed:
            return self

        def at(header: _Header) -> int:
            name = header.name
            return min(place.get(name, len(place)), place.get(f"{name}[0]", len(place)))

        headers = sorted(self._headers, key=at)
        if headers == self._headers:
            return self
        other = copy.copy(self)
        other._headers = headers
        other.__dict__.pop("_outlines", None)
        return other

    def _forget_meaning(self) -> None:
        for known in ("_annotations", "_outlines"):
            self.__dict__.pop(known, None)

    @cached_property
    def _annotations(self) -> Annotations:
        config = Config() if self.given is not None else read_config(self.path.parent)
        tensors = self.tensors()
        meanings = resolve(tensors, config, self.setup.axes)
        return Annotations.of(tensors, meanings)

    @cached_property
    def _outlines(self) -> list[pa.RecordBatch]:
        """The rows of each array without their data."""
        return [self._rows(header, None) for header in self._headers]

    @property
    def layers(self) -> int | None:
        counts: list[int] = [b["part_index"].to_pylist().count(0) for b in self._outlines]
        return sum(counts)

    @property
    def row_count(self) -> int | None:
        counts: list[int] = [batch.num_rows for batch in self._outlines]
        return sum(counts)

    def _schema(self, *, with_data: bool) -> pa.Schema:
        fields = [pa.field(n, kind) for n, kind in _FIELDS.items() if with_data or n != "data"]
        schema = pa.schema(_core.parts_schema(self._annotations.schema(pa.schema(fields))))
        return schema.append(pa.field("source_file", pa.string())).with_metadata(_NEW_ERRORS)

    @property
    def schema(self) -> pa.Schema:
        return self._schema(with_data=True)

    def reader(self) -> pa.RecordBatchReader:
        return self.stretch(self.key, 0, len(self._headers))

    def without_data(self) -> pa.RecordBatchReader:
        return pa.RecordBatchReader.from_batches(self._schema(with_data=False), self._outlines)

    def pieces(self) -> list[Piece]:
        return [
            Piece(
                self.key,
                at,
                batch.num_rows,
                batch["part_index"].to_pylist().count(0),
                header.bytes,
                continues=False,
            )
            for at, (header, batch) in enumerate(zip(self._headers, self._outlines, strict=True))
        ]

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        headers = self._headers[position : position + count]
        return pa.RecordBatchReader.from_batches(self.schema, self._batches(headers))

    def _batches(self, headers: list[_Header]) -> Iterator[pa.RecordBatch]:
        with self._open() as file, _archive(file) as archive:
            for header in headers:
                yield self._rows(header, archive or file)

    def _rows(self, header: _Header, file: Any) -> pa.RecordBatch:
        """The array's row, or the rows of its parts, with data out of `file` if there is one."""
        with_data = file is not None
        problem = header.problem(self.path.name)
        row = {
            "layer_name": [header.name],
            "dtype": [header.known_dtype],
            "shape": [list(header.shape)],
            "error_code": ["unsupported_dtype" if problem else None],
            "error_message": [problem],
        }
        columns = {name: pa.array(values, _FIELDS[name]) for name, values in row.items()}
        if with_data:
            is_read = problem is None
            columns["data"] = (
                self._binary(header, file) if is_read else pa.nulls(1, pa.large_binary())
            )
        batch = self._annotations.complete(pa.record_batch(columns))
        batch = pa.record_batch(_core.split_parts(batch, self.setup.part_bytes, True))
        files = pa.repeat(pa.scalar(self.path.name), batch.num_rows)
        schema = self._schema(with_data=with_data)
        ordered = [files if name == "source_file" else batch[name] for name in schema.names]
        return pa.RecordBatch.from_arrays(ordered, schema=schema)

    @contextmanager
    def _open(self) -> Iterator[Any]:
        """The file, or what was given of it."""
        with self.path.open("rb") if self.given is None else pa.BufferReader(self.given) as file:
            yield file

    def _read_headers(self) -> list[_Header]:
        try:
            with self._open() as file, _archive(file) as archive:
                if archive is None:
                    shape, _, dtype = _header(file)
                    header = _Header(self.path.stem, None, shape, dtype)
                    start = file.tell()
                    header.check_size(file.seek(0, os.SEEK_END) - start)
                    return [header]
                headers = []
                for member in archive.infolist():
                    with archive.open(member) as inside:
                        shape, _, dtype = _header(inside)
                    name = member.filename.removesuffix(".npy")
                    headers.append(_Header(name, member, shape, dtype))
                    headers[-1].check_size(member.file_size)
                return headers
        except _DAMAGE as error:
            raise OSError(
                f"{self.path}: is no file that np.save or np.savez wrote: {error}"
            ) from error

    def _binary(self, header: _Header, file: Any) -> pa.Array:
        """One value: the array's bytes, as they lie in memory where they are as ours."""
        try:
            if header.member is not None:
                with file.open(header.member) as inside:
                    array = npy.read_array(inside, allow_pickle=False)
            elif self.given is None and self.setup.mmap:
                array = self._mapped()
            else:
                file.seek(0)
                array = npy.read_array(file, allow_pickle=False)
        except _DAMAGE as error:
            raise OSError(f"{self.path}: layer '{header.name}' can't be read: {error}") from error
        if (array.shape, array.dtype) != (header.shape, header.dtype):
            raise OSError(f"{self.path}: changed while it was read.")
        native = np.ascontiguousarray(array, header.dtype.newbyteorder("="))
        ends = pa.py_buffer(np.array([0, native.nbytes], np.int64))
        data = pa.py_buffer(native.reshape(-1).view(np.uint8))
        return pa.Array.from_buffers(pa.large_binary(), 1, [None, ends, data])

    def _mapped(self) -> np.ndarray[Any, Any]:
        """The one array, mapped; or read where that is refused."""
        try:
            mapped: np.ndarray[Any, Any] = np.load(self.path, mmap_mode="r", allow_pickle=False)
            return mapped
        except OSError as error:
            if not self.path.is_file() or isinstance(error, PermissionError):
                raise
            warn_not_mapped(self.path, str(error))
            read: np.ndarray[Any, Any] = np.load(self.path, allow_pickle=False)
            return read


@contextmanager
def _archive(file: Any) -> Iterator[zipfile.ZipFile | None]:
    """The archive in a file, if it is one."""
    start = file.read(len(_ZIP))
    file.seek(0)
    if start[:2] != _ZIP[:2]:  # An archive without members begins otherwise.
        yield None
        return
    with zipfile.ZipFile(file) as archive:
        yield archive


def _header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = npy.read_magic(file)
    read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
    return read(file)
