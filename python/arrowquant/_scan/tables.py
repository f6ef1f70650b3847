"""Files that hold a relation: groups of rows with columns."""

from __future__ import annotations

import json
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, Protocol

import pyarrow as pa

from arrowquant import _core
from arrowquant._model import Config, Meaning, Tensor, read_config, resolve
from arrowquant._model.annotate import Annotations
from arrowquant._scan.base import Piece, Scan, warn_not_mapped
from arrowquant._scan.recognise import LFS_POINTER, is_lfs_pointer

_FLOATS = {pa.float64(): "F64", pa.float32(): "F32", pa.float16(): "F16"}


_SOURCE_METADATA = b"arrowquant.source_metadata"
"""What the source of a quantized file says beside its tensors, as JSON."""


def with_source_metadata(schema: pa.Schema, said: dict[str, Any]) -> pa.Schema:
    """The schema with what a source says beside its tensors."""
    if not said:
        return schema
    return schema.with_metadata({**(schema.metadata or {}), _SOURCE_METADATA: json.dumps(said)})


class Groups(Protocol):
    """An open file of groups of rows."""

    schema: pa.Schema

    def each(self) -> Iterable[int]:
        """The groups in order."""

    def read(self, group: int, names: list[str]) -> Iterable[pa.RecordBatch]:
        """The rows of one group, only these columns."""

    def bytes(self, group: int) -> int:
        """About how many bytes a group has."""


class TableScan(Scan):
    """A file of groups of rows, with columns of its own beside those of the relation."""

    @abstractmethod
    def _open_file(self) -> AbstractContextManager[Groups]:
        """The open file."""

    def tensors(self) -> list[Tensor]:
        """What the rows say of their tensors; nothing where they say themselves what these mean."""
        with self._open() as file:
            names = file.schema.names
            if self._says_itself:
                return []
            known = [name for name in ("layer_name", "dtype", "shape") if name in names]
            data = file.schema.field("data").type if "data" in names else None
            fixed = list(data.shape) if isinstance(data, pa.FixedShapeTensorType) else None
            dtype = _FLOATS.get(_item(data)) if data is not None else None
            found: dict[str, Tensor] = {}
            for group in file.each():
                for batch in file.read(group, known):
                    for row in batch.select(known).to_pylist():
                        if row["layer_name"] is not None:
                            said = str(row.get("dtype") or dtype or "")
                            said = _core.dtype_name(said) or said
                            shape = row.get("shape") or fixed or []
                            shape = [int(size) for size in shape if size is not None]
                            found[row["layer_name"]] = Tensor(row["layer_name"], said, shape)
        return list(found.values())

    def assign(self, meanings: Sequence[Meaning], *, any_stacks: bool) -> None:
        if not self._says_itself:
            self.__dict__["_annotations"] = Annotations.of(
                self._tensors, meanings, any_stacks=any_stacks
            )

    def _forget_meaning(self) -> None:
        self.__dict__.pop("_annotations", None)

    @cached_property
    def _says_itself(self) -> bool:
        """Whether the relation has roles of its own, is quantized, or no weights at all."""
        with self._open() as file:
            names = set(file.schema.names)
        return "layer_name" not in names or bool({"role", "scales"} & names)

    @cached_property
    def _tensors(self) -> list[Tensor]:
        return self.tensors()

    @cached_property
    def _annotations(self) -> Annotations | None:
        """What the layers mean; nothing of a relation that says it itself, or is quantized."""
        if self._says_itself:
            return None
        tensors = self._tensors
        config = Config() if self.given is not None else read_config(self.path.parent)
        meanings = resolve(tensors, config, self.setup.axes)
        return Annotations.of(tensors, meanings)

    @contextmanager
    def _open(self) -> Iterator[Groups]:
        """The open file. What it is not, or holds and should not, is an error that names it."""
        try:
            with self._open_file() as file:
                yield file
        except (OSError, EOFError, pa.ArrowInvalid) as error:
            if self.given is None and isinstance(error, PermissionError | FileNotFoundError):
                raise
            raise OSError(f"{self.path}: {self._why(error)}") from error

    def _source(self) -> Any:
        """The file's bytes, mapped or to be read."""
        if self.given is not None:
            return pa.BufferReader(self.given)
        path = str(self.path)
        if self.setup.mmap and self.path.stat().st_size:
            try:
                return pa.memory_map(path)
            except OSError as error:
                if not self.path.is_file() or isinstance(error, PermissionError):
                    raise
                warn_not_mapped(self.path, str(error))
        return pa.OSFile(path)

    def _why(self, error: Exception) -> str:
        text = str(error).strip()
        if self.given is None and self.path.is_file() and is_lfs_pointer(self.path):
            return LFS_POINTER
        if "encrypted" in text or "decryption" in text:
            return (
                "is encrypted. Decrypt it with pyarrow.parquet.read_table(path, "
                "decryption_properties=...), and hand over that table."
            )
        return f"can't be read, it may be damaged or cut short: {text}"

    @property
    def schema(self) -> pa.Schema:
        with self._open() as file:
            schema = file.schema
        return _Columns(schema, self._annotations, with_data=True).schema

    def reader(self) -> pa.RecordBatchReader:
        return self._read(None, with_data=True)

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return self._read(range(position, position + count), with_data=True)

    def without_data(self) -> pa.RecordBatchReader:
        return self._read(None, with_data=False)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the source that the file was quantized from says beside its tensors."""
        with self._open() as file:
            found = (file.schema.metadata or {}).get(_SOURCE_METADATA)
        said = {} if found is None else json.loads(found)
        return said if isinstance(said, dict) else {}

    def _read(self, groups: range | None, *, with_data: bool) -> pa.RecordBatchReader:
        with self._open() as file:
            stored = file.schema
        columns = _Columns(stored, self._annotations, with_data=with_data)

        def batches() -> Iterator[pa.RecordBatch]:
            with self._open() as file:
                for group in file.each() if groups is None else groups:
                    yield from self._group(file, group, columns)

        return pa.RecordBatchReader.from_batches(columns.schema, batches())

    def _group(self, file: Groups, group: int, columns: _Columns) -> Iterator[pa.RecordBatch]:
        for batch in file.read(group, columns.stored):
            yield columns.complete(batch, self.path.name, self.setup.part_bytes)

    def pieces(self) -> list[Piece]:
        pieces = []
        annotations = self._annotations
        with self._open() as file:
            columns = _Columns(file.schema, annotations, with_data=False)
            for group in file.each():
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

    def __init__(
        self, stored: pa.Schema, annotations: Annotations | None, *, with_data: bool
    ) -> None:
        names, data = stored.names, stored.field("data").type if "data" in stored.names else None
        self._is_quantized = {"scales", "zero_points", "row_index"} <= set(names)
        self._dtype = _FLOATS.get(_item(data)) if data is not None else None
        self._cuttable = data is None or not pa.types.is_fixed_size_list(_storage(data))
        suffices = "shape" in names and ("dtype" in names or self._dtype is not None)
        drop = not with_data and suffices and data is not None
        payload = set(_core.payload_columns()) if self._is_quantized else {"data"}
        self.stored = [name for name in names if not (drop and name in payload)]
        self._lacks_dtype = drop and "dtype" not in names
        self._annotations = None if self._is_quantized else annotations
        schema = pa.schema([stored.field(name) for name in self.stored], stored.metadata)
        if self._lacks_dtype:
            schema = schema.append(pa.field("dtype", pa.string()))
        if self._annotations is not None:
            schema = self._annotations.schema(schema)
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
        if self._annotations is not None:
            batch = self._annotations.complete(batch)
        batch = pa.record_batch(_core.split_parts(batch, part_bytes, self._cuttable))
        if "source_file" not in batch.schema.names:
            files = pa.repeat(pa.scalar(file, pa.string()), batch.num_rows)
            batch = batch.append_column("source_file", files)
        return pa.RecordBatch.from_arrays(batch.columns, schema=self.schema)


def _storage(kind: pa.DataType) -> pa.DataType:
    """The type itself, or what an extension type such as that of tensors is stored as."""
    return kind.storage_type if isinstance(kind, pa.BaseExtensionType) else kind


def _item(kind: pa.DataType) -> pa.DataType | None:
    """The type of a list's numbers; None for a type that is no list."""
    kind = _storage(kind)
    is_list = (
        pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)
    )
    return kind.value_type if is_list else None
