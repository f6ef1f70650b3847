"""Checkpoints of several files, and what is missing of them."""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant._model import Config, Meaning, Tensor, read_config, resolve
from arrowquant._scan.base import Files, Piece, Scan, Setup, identity, missing_key
from arrowquant._scan.tensors import TensorScan, without_companions

_ERRORS = [pa.field("error_code", pa.string()), pa.field("error_message", pa.string())]


class ManyScan(Scan):
    """Files of one kind, one after the other."""

    def __init__(
        self, path: Path, setup: Setup, members: Sequence[Scan], *, index: Path | None = None
    ) -> None:
        super().__init__(path, setup)
        self.members = {member.key: member for member in members}
        self.index = index
        self._has_errors = any(isinstance(member, UnreadableScan) for member in members)
        self._resolve()
        self.data_bytes = _sum(member.data_bytes for member in members)
        readable = next((m for m in members if not isinstance(m, UnreadableScan)), members[0])
        for member in members:
            if isinstance(member, UnreadableScan):
                member.like = readable
        first, *others = (member.schema for member in members)
        different = [
            member.path.name
            for member, schema in zip(members[1:], others, strict=True)
            if schema.names != first.names or schema.types != first.types
        ]
        if different:
            raise ValueError(
                f"{path}: {different[0]} has other columns than {members[0].path.name}. "
                "Scan them one by one."
            )
        self._schema = self._with_errors(first)

    def _config(self) -> Config:
        """What is said beside the files."""
        return read_config(self.path)

    def _meanings(self, tensors: Sequence[Tensor], config: Config) -> list[Meaning]:
        """The meaning of each tensor of all files."""
        return resolve(tensors, config, self.setup.axes)

    def _resolve(self) -> None:
        """Find out what the tensors mean: that may lie in another file."""
        every = {key: member.tensors() for key, member in self.members.items()}
        tensors = [tensor for found in every.values() for tensor in found]
        owners = {
            tensor.name: self.members[key].path for key, found in every.items() for tensor in found
        }
        meanings = self._meanings(tensors, self._config())
        consumed = {name for one in meanings if one.packed for name in one.packed.companions}
        files = [member for member in self.members.values() if isinstance(member, TensorScan)]
        siblings = {member.path: member for member in files}
        for file in files:
            file.siblings = siblings
        start, checked = 0, {}
        for key, found in every.items():
            own = meanings[start : start + len(found)]
            start += len(found)
            member = self.members[key]
            if isinstance(member, TensorScan):
                own = member.checked(own, owners, consumed)
            checked[key] = own
        any_stacks = any(meaning.stack is not None for meaning in meanings)
        for key, found in every.items():
            own = without_companions(found, checked[key], consumed)
            self.members[key].assign(own, any_stacks=any_stacks)

    def in_order(self, place: Mapping[str, int], fixed: Collection[str] = ()) -> Scan:
        members = {key: member.in_order(place, fixed) for key, member in self.members.items()}
        if all(members[key] is member for key, member in self.members.items()):
            return self
        other = copy.copy(self)
        other.members = members
        return other

    def _forget_meaning(self) -> None:
        rules = self.setup.axis_rules
        self.members = {key: member.with_axes(rules) for key, member in self.members.items()}
        self._resolve()

    def tensors(self) -> list[Tensor]:
        return [tensor for member in self.members.values() for tensor in member.tensors()]

    def made_of(self) -> dict[str, Collection[str]]:
        return {k: v for member in self.members.values() for k, v in member.made_of().items()}

    def tensor_elements(self) -> dict[str, int] | None:
        counts: dict[str, int] = {}
        for member in self.members.values():
            found = member.tensor_elements()
            if found is None:
                return None
            for name, count in found.items():
                counts[name] = counts.get(name, 0) + count
        return counts

    @property
    def layers(self) -> int | None:
        return _sum(member.layers for member in self.members.values())

    @property
    def row_count(self) -> int | None:
        return _sum(member.row_count for member in self.members.values())

    @property
    def metadata(self) -> dict[str, Any]:
        """What its files say beside their tensors; of what several say, the first."""
        said: dict[str, Any] = {}
        for member in self.members.values():
            said = {**member.metadata, **said}
        return said

    @property
    def first_key(self) -> str:
        return next(iter(self.members))

    def _with_errors(self, schema: pa.Schema) -> pa.Schema:
        missing = [field for field in _ERRORS if field.name not in schema.names]
        return pa.schema([*schema, *(missing if self._has_errors else [])], schema.metadata)

    @property
    def schema(self) -> pa.Schema:
        return self._schema

    def reader(self) -> pa.RecordBatchReader:
        return self._chain((member.reader() for member in self.members.values()), self._schema)

    def without_data(self) -> Any:
        plans = [member.without_data() for member in self.members.values()]
        return self._chain(iter(plans), self._with_errors(plans[0].schema))

    def _chain(
        self, readers: Iterator[pa.RecordBatchReader], schema: pa.Schema
    ) -> pa.RecordBatchReader:
        def batches() -> Iterator[pa.RecordBatch]:
            for reader in readers:
                for batch in reader:
                    yield _widened(batch, schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    def pieces(self) -> list[Piece]:
        return [piece for member in self.members.values() for piece in member.pieces()]

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        member = self.members.get(file)
        if member is None:
            raise FileNotFoundError(f"{self.path}: has no {file}.")
        return self._chain(iter([member.stretch(file, position, count)]), self._schema)

    def files(self) -> Files:
        index = [identity(self.index, self.index.name)] if self.index else []
        found = {file[0]: file for member in self.members.values() for file in member.files()}
        return index + list(found.values())


def _sum(values: Iterator[int | None]) -> int | None:
    known = list(values)
    return None if None in known else sum(value for value in known if value is not None)


def _widened(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with nulls for the columns that it lacks."""
    if batch.schema.names == schema.names:
        return pa.RecordBatch.from_arrays(batch.columns, schema=schema)
    columns = [
        batch[field.name]
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


class UnreadableScan(Scan):
    """Layers that can't be read: rows that say so.

    They are those that an index names. Without an index nobody knows their names: then there is
    one row, called as the file is.
    """

    def __init__(
        self,
        path: Path,
        setup: Setup,
        names: list[str],
        why: str,
        *,
        is_lacking: bool = False,
    ) -> None:
        super().__init__(path, setup)
        self._names, self._why, self._is_lacking = names, why, is_lacking
        self.data_bytes = 0
        self.like: Scan | None = None
        """A file of the checkpoint that can be read, whose columns these rows have, too."""

    @property
    def layers(self) -> int | None:
        return len(self._names)

    @property
    def row_count(self) -> int | None:
        return len(self._names)

    def tensor_elements(self) -> dict[str, int] | None:
        return {}

    @property
    def error(self) -> OSError:
        """Why the file can't be read."""
        return OSError(f"{self.path}: {self._why}")

    def files(self) -> Files:
        """The file as one that is not there: that it can be read is news, as that it came is.

        One that can be read, and only lacks some tensors, is told by the scan of the others.
        """
        return [] if self._is_lacking else [(self.path.name, None, None)]

    @property
    def schema(self) -> pa.Schema:
        return self._readable.schema

    @property
    def _readable(self) -> Scan:
        assert self.like is not None
        return self.like

    def reader(self) -> pa.RecordBatchReader:
        return self._read(self.schema, 0, len(self._names))

    def without_data(self) -> pa.RecordBatchReader:
        return self._read(self._readable.without_data().schema, 0, len(self._names))

    def pieces(self) -> list[Piece]:
        return [Piece(self.key, at, 1, 1, 0, continues=False) for at in range(len(self._names))]

    @property
    def key(self) -> str:
        return missing_key(self.path.name)

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return self._read(self.schema, position, position + count)

    def _read(self, schema: pa.Schema, start: int, end: int) -> pa.RecordBatchReader:
        names = self._names[start:end]
        known: dict[str, list[Any]] = {
            "layer_name": names,
            "part_index": [0] * len(names),
            "part_count": [1] * len(names),
            "part_offset": [0] * len(names),
            "source_file": [self.path.name] * len(names),
            "error_code": ["source_unreadable"] * len(names),
            "error_message": [f"layer '{name}' ({self.path.name}): {self._why}" for name in names],
        }
        fields = [*schema, *(field for field in _ERRORS if field.name not in schema.names)]
        full = pa.schema(fields, schema.metadata)
        columns = [
            pa.array(known[field.name], field.type)
            if field.name in known
            else pa.nulls(len(names), field.type)
            for field in full
        ]
        batches = [pa.RecordBatch.from_arrays(columns, schema=full)] if names else []
        return pa.RecordBatchReader.from_batches(full, batches)
