"""`aq.write_parquet`: the good rows in one file, the failed ones beside it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from arrowquant import _core
from arrowquant._result import QuantizationResult
from arrowquant._stream import QuantizationStream

_ERRORS = ("error_code", "error_message", "error_element", "error_count")
_FAILED_FIRST: tuple[str, ...] = (
    "row_index",
    "layer_name",
    "shape",
    "dtype",
    "scheme",
    "group_size",
)
_FAILED_FIRST += ("is_symmetric", *_ERRORS)


def write_parquet(quantized: Any, path: str | os.PathLike[str]) -> None:
    """Write the good rows to `path` and the failed ones to `<stem>.failed.parquet` beside it.

    Each batch becomes a row group, small ones together. Both files are written under temporary
    names and synced; the failed rows, also when there are none, are renamed into place first.

    Args:
        quantized: An `aq.quantize` result, a stream, or the one relation in any Arrow object.
        path: The Parquet file, overwritten where it exists.

    Raises:
        QuantizationError: A row of a stream failed and its `continue_on_error` was off; nothing
            is written.
        OSError: A file can't be written.
        ValueError: A layer is larger than a Parquet cell can be, 2 GiB; or Parquet has no type for
            a carried column.
    """
    batches, schema = _one_relation(quantized)
    good = pa.schema([f for f in schema if f.name not in _ERRORS], schema.metadata)
    with AtomicParquet(path, failed_path(path), good) as writer:
        failed = []
        knows_failed = isinstance(quantized, (QuantizationResult, QuantizationStream))
        for batch in batches:
            writer.write(pa.record_batch(_core.select(batch, batch, False)).select(good.names))
            if not knows_failed:
                bad = pa.record_batch(_core.select(batch, batch, True))
                failed += [bad] if bad.num_rows else []
        one = pa.Table.from_batches(failed, schema)
        writer.commit(quantized.failed if knows_failed else _failed_of(one))


def _one_relation(quantized: Any) -> tuple[Iterable[pa.RecordBatch], pa.Schema]:
    if isinstance(quantized, QuantizationStream):
        batches: Any = quantized  # iterated, it raises our own errors and lets Ctrl-C through
    else:
        batches = pa.RecordBatchReader.from_stream(quantized)
    missing = {"row_index", "scales", *_ERRORS} - set(batches.schema.names)
    if missing:
        raise ValueError(
            "write_parquet needs the one relation, with its error_ columns; it lacks "
            f"{', '.join(sorted(missing))}."
        )
    schema = _storable(batches.schema)
    return (batch.cast(schema) for batch in batches), schema


_STORABLE = {
    pa.binary(): pa.large_binary(),
    pa.binary_view(): pa.large_binary(),
    pa.string_view(): pa.string(),
    pa.large_string(): pa.string(),
}


def _storable(schema: pa.Schema) -> pa.Schema:
    """An engine's types of the one relation as those of our own."""
    fields = [field.with_type(_STORABLE.get(field.type, field.type)) for field in schema]
    return pa.schema(fields, (schema.metadata or {}) | _core.format_metadata())


def _failed_of(one: pa.Table) -> pa.Table:
    """The failed relation, as far as the one relation knows it: what was asked is not in it."""
    payload = {"data", "scales", "scale_dtype", "zero_points", "bits_per_weight", "mse"}
    payload |= {"max_abs_error", "snr_db"}
    carried = [n for n in one.schema.names if n not in payload and n not in _FAILED_FIRST]
    return one.select([*_FAILED_FIRST, *carried])


def failed_path(path: str | os.PathLike[str]) -> Path:
    """Where the failed rows go: `m.parquet` has them in `m.failed.parquet`."""
    path = Path(path)
    return path.with_name(f"{path.stem}.failed{path.suffix or '.parquet'}")


class AtomicParquet:
    """Two Parquet files in the making, under temporary names until `commit`.

    A batch is written on a thread of its own while the caller makes the next one.
    """

    def __init__(
        self, path: str | os.PathLike[str], failed: str | os.PathLike[str], schema: pa.Schema
    ) -> None:
        self.path, self.failed_path = Path(path), Path(failed)
        self._temporary = _temporary_beside(self.path)
        try:
            self._writer = _core.ParquetWriter(self._temporary, schema)
        except BaseException:
            self._temporary.unlink(missing_ok=True)
            raise
        self._thread = ThreadPoolExecutor(1, "arrowquant-writer")
        self._writing: Future[None] | None = None

    def __enter__(self) -> Self:
        return self

    def write(self, batch: pa.RecordBatch) -> None:
        """Begin to write a batch, once the one before it is written.

        Raises:
            OSError: The one before it could not be written.
            ValueError: A layer in the one before it is larger than a Parquet cell can be.
        """
        self._wait()
        try:
            self._writing = self._thread.submit(self._writer.write, batch)
        except RuntimeError:  # The interpreter is ending, and starts no more threads.
            self._writer.write(batch)

    def _wait(self) -> None:
        writing, self._writing = self._writing, None
        if writing is not None:
            writing.result()

    def commit(self, failed: pa.Table) -> None:
        """Sync both files and give them their names, the failed rows' first."""
        self._wait()
        self._writer.finish()
        _sync(self._temporary)
        with replacing(self.failed_path) as temporary:
            writer = _core.ParquetWriter(temporary, failed.schema)
            for batch in failed.to_batches():
                writer.write(batch)
            writer.finish()
        self._temporary.replace(self.path)
        _sync(self.path.parent)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no temporary file."""
        self._thread.shutdown()
        self._temporary.unlink(missing_ok=True)


def _temporary_beside(path: Path) -> Path:
    """A new file's name in the directory of `path`, with the permissions of any new file."""
    if not path.parent.is_dir():
        raise FileNotFoundError(f"{path}: the directory {path.parent} does not exist. Make it.")
    if path.is_dir():
        raise IsADirectoryError(f"{path}: is a directory. Name a file in it.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    return temporary


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary name beside `path` to write to, which takes its place at the end."""
    temporary = _temporary_beside(path)
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(path)
        _sync(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
