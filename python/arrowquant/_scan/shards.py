"""Checkpoints of several files: directories, and the index that Hugging Face's tools write.

Source of the index's format: `model.safetensors.index.json` has a `weight_map` from tensor to file,
https://huggingface.co/docs/safetensors/en/torch_shared_tensors and transformers' sharded saving.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant._scan.base import Files, Piece, Scan, Setup, identity, missing_key
from arrowquant._scan.recognise import converts, unreadable
from arrowquant._scan.safetensors import SafetensorsScan

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
        self.data_bytes = _sum(member.data_bytes for member in members)
        self.layers = _sum(member.layers for member in members)
        self.row_count = _sum(member.row_count for member in members)
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
    """Layers that an index names and that are not there: rows that say so."""

    def __init__(self, path: Path, setup: Setup, names: list[str], why: str, like: Scan) -> None:
        super().__init__(path, setup)
        self._names, self._why, self._like = names, why, like
        self.data_bytes, self.layers, self.row_count = 0, len(names), len(names)

    @property
    def schema(self) -> pa.Schema:
        return self._like.schema

    def reader(self) -> pa.RecordBatchReader:
        return self._read(self._like.schema, 0, len(self._names))

    def without_data(self) -> pa.RecordBatchReader:
        return self._read(self._like.without_data().schema, 0, len(self._names))

    def pieces(self) -> list[Piece]:
        return [Piece(self.key, at, 1, 1, 0, continues=False) for at in range(len(self._names))]

    @property
    def key(self) -> str:
        return missing_key(self.path.name)

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        del file  # There is one.
        return self._read(self._like.schema, position, position + count)

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


def several(scans: Sequence[Scan], setup: Setup) -> Scan:
    """Files that were named one by one, in that order.

    Raises:
        ValueError: There are none, or two have the same name.
    """
    members = [
        member
        for one in scans
        for member in (one.members.values() if isinstance(one, ManyScan) else [one])
    ]
    if not members:
        raise ValueError("the list of files is empty.")
    whole = [member.path for member in members if member.path.is_dir()]
    if whole:
        raise ValueError(f"{whole[0]}: is a dataset. Scan it on its own.")
    keys = [member.key for member in members]
    twice = [key for key in keys if keys.count(key) > 1]
    if twice:
        raise ValueError(f"two of the files are called {twice[0]}. Scan them one by one.")
    return ManyScan(members[0].path.parent, setup, members)


def directory(path: Path, setup: Setup, kinds: Mapping[str, type[Scan]]) -> Scan:
    """All files of the one kind that the directory holds, in the order of their names.

    Raises:
        ValueError: It holds none, or several kinds.
    """
    found: dict[type[Scan], list[Path]] = {}
    for file in sorted(path.iterdir()):
        kind = kinds.get(file.suffix.lower())
        if kind is not None and file.is_file() and not file.name.startswith("."):
            found.setdefault(kind, []).append(file)
    if not found:
        raise ValueError(_holds_none(path, kinds))
    if len(found) > 1:
        names = ", ".join(files[0].name for files in found.values())
        raise ValueError(
            f"{path}: holds files of several kinds, such as {names}. Name one of them."
        )
    ((kind, files),) = found.items()
    return ManyScan(path, setup, [kind(file, setup) for file in files])


def _holds_none(path: Path, kinds: Mapping[str, type[Scan]]) -> str:
    """Why a directory is none that is read, with what to do."""
    inside = sorted(
        file.relative_to(path) for file in path.rglob("*") if file.suffix.lower() in kinds
    )
    if inside:
        folder, suffix = inside[0].parts[0], inside[0].suffix.lower()
        what = f"{path}: holds no file itself, but directories of them, such as {folder}."
        if suffix == ".parquet":
            return (
                f"{what} Read them as a dataset: aq.quantize(pyarrow.dataset.dataset('{path}', "
                "partitioning='hive'))."
            )
        return f"{what} Name one of these."
    unread = [file for file in sorted(path.iterdir()) if converts(file)]
    if unread:
        return unreadable(unread[0], kinds)
    return f"{path}: holds no file that aq.scan reads ({', '.join(kinds)})."


def from_index(index: Path, setup: Setup) -> Scan:
    """The shards that an index lists, in its order; what is not there comes as rows that say so.

    Raises:
        OSError: The index can't be read, or no shard is there.
        ValueError: It is no index, or a shard holds a tensor that the index has in another one.
    """
    shards = _read_index(index)
    root = index.parent
    scans = {
        name: SafetensorsScan(root / name, setup) for name in shards if (root / name).is_file()
    }
    if not scans:
        raise FileNotFoundError(f"{index}: none of its {len(shards)} files is there.")
    like = next(iter(scans.values()))
    owner = {tensor: name for name, tensors in shards.items() for tensor in tensors}
    members: list[Scan] = []
    for name, tensors in shards.items():
        if name not in scans:
            why = "the file is not there. Fetch it, and run again."
            members.append(UnreadableScan(root / name, setup, tensors, why, like))
            continue
        members.append(scans[name])
        present = {tensor for tensor, _, _ in scans[name].open().rows()}
        elsewhere = [tensor for tensor in present if owner.get(tensor, name) != name]
        if elsewhere:
            tensor = min(elsewhere)
            raise ValueError(
                f"{index}: '{tensor}' is in {name}, but the index has it in {owner[tensor]}. "
                "Correct the index, or scan the files one by one."
            )
        missing = [tensor for tensor in tensors if tensor not in present]
        if missing:
            why = "the index names it, but the file does not hold it. Fetch the file anew."
            members.append(UnreadableScan(root / name, setup, missing, why, like))
    return ManyScan(root, setup, members, index=index)


def _read_index(index: Path) -> dict[str, list[str]]:
    """The files in the order in which the index first names them, and the tensors of each."""
    try:
        text = index.read_text("utf-8")
        weight_map = json.loads(text, object_pairs_hook=_unique)["weight_map"]
        entries = dict(weight_map.items())
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{index}: is no index of safetensors files: {error!r}.") from error
    shards: dict[str, list[str]] = {}
    for tensor, name in entries.items():
        if not isinstance(name, str) or not _is_file_name(name):
            raise ValueError(f"{index}: '{tensor}' is in {name!r}, which is no file's name.")
        shards.setdefault(name, []).append(tensor)
    if not shards:
        raise ValueError(f"{index}: its weight_map is empty.")
    return shards


def _is_file_name(name: str) -> bool:
    plain = Path(name).name == name and name not in {"", ".", ".."}
    return plain and "\0" not in name and name.isprintable()


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object in which no name comes twice: JSON would silently let the last one win."""
    known = dict(pairs)
    if len(known) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"'{max(names, key=names.count)}' comes twice")
    return known
