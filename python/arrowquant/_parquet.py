"""`aq.write_parquet`: the good rows in one file, the failed ones beside it."""

from __future__ import annotations

import filecmp
import os
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pyarrow as pa

from arrowquant import _core
from arrowquant._files import check_output, exists_error, user_path
from arrowquant._inputs import as_reader
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
SUFFIXES = (".parquet",)


def write_parquet(quantized: Any, path: str | os.PathLike[str], *, overwrite: bool = False) -> None:
    """Write the good rows to `path` and the failed ones to `<stem>.failed.parquet` beside it.

    Each batch becomes a row group, small ones together. Both files are written under temporary
    names and synced; the failed rows, also when there are none, are renamed into place first.

    Args:
        quantized: An `aq.quantize` result, a stream, or the one relation in any Arrow object.
        path: The Parquet file, which ends in `.parquet`.
        overwrite: Whether to replace the two files where they exist. A file that is there already
            with the very same bytes stays, and is no error.

    Raises:
        QuantizationError: A row of a stream failed and its `continue_on_error` was off; nothing
            is written.
        OSError: A file exists, or can't be written.
        ValueError: A layer is larger than a Parquet cell can be, 2 GiB; Parquet has no type for
            a carried column; or the path ends otherwise.
    """
    path = user_path(path)
    for output in (path, failed_path(path)):
        may_be_same = _is_ours(output) and not _is_read_once(quantized)
        check_output(output, SUFFIXES, overwrite=overwrite or may_be_same)
    batches, schema = _one_relation(quantized)
    good = pa.schema([f for f in schema if f.name not in _ERRORS], schema.metadata)
    with AtomicParquet(path, failed_path(path), good, overwrite=overwrite) as writer:
        failed = []
        knows_failed = isinstance(quantized, (QuantizationResult, QuantizationStream))
        for batch in batches:
            writer.write(pa.record_batch(_core.select(batch, batch, False)).select(good.names))
            if not knows_failed:
                bad = pa.record_batch(_core.select(batch, batch, True))
                failed += [bad] if bad.num_rows else []
        one = pa.Table.from_batches(failed, schema)
        writer.commit(quantized.failed if knows_failed else _failed_of(one))


def _is_read_once(quantized: Any) -> bool:
    """Whether it would be lost if its file were refused at the end."""
    return isinstance(quantized, (QuantizationStream, pa.RecordBatchReader))


def _is_ours(path: Path) -> bool:
    """Whether it is a Parquet file that was written here."""
    import pyarrow.parquet as pq

    try:
        return str(pq.read_metadata(path).created_by).startswith("arrowquant ")
    except (OSError, pa.ArrowException):
        return False


def _one_relation(quantized: Any) -> tuple[Iterable[pa.RecordBatch], pa.Schema]:
    if isinstance(quantized, QuantizationStream):
        # Iterated, it raises our own errors and lets Ctrl-C through.
        given, batches = quantized.schema, iter(quantized)
    else:
        reader = as_reader(quantized, "quantized")
        given, batches = reader.schema, iter(reader)
    missing = {"row_index", "scales", *_ERRORS} - set(given.names)
    if missing:
        raise ValueError(
            "write_parquet needs the one relation, with its error_ columns; it lacks "
            f"{', '.join(sorted(missing))}."
        )
    schema = _storable(given)
    gathered = _core.Gathering(_core.Batches(given, batches))
    return (pa.record_batch(batch).cast(schema) for batch in gathered), schema


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
    own = {*_core.quantized_columns(), *_FAILED_FIRST}
    carried = [n for n in one.schema.names if n not in own]
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
        self,
        path: str | os.PathLike[str],
        failed: str | os.PathLike[str],
        schema: pa.Schema,
        *,
        overwrite: bool = True,
    ) -> None:
        self._overwrite = overwrite
        self.path, self.failed_path = Path(path), Path(failed)
        _core.check_storable(schema)
        self._temporary = _core.Temporary(self.path)
        try:
            self._writer = _core.ParquetWriter(self._temporary.path, schema)
        except BaseException:
            self._temporary.drop()
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
        """Sync both files and give them their names, the failed rows' first.

        Raises:
            FileExistsError: There is another file, which is not to be replaced.
        """
        self._wait()
        self._writer.finish()
        failures = _core.Temporary(self.failed_path)
        try:
            writer = _core.ParquetWriter(failures.path, failed.schema)
            for batch in failed.to_batches():
                writer.write(batch)
            writer.finish()
            if not (self._overwrite or self._is_same(self._temporary, self.path)):
                raise exists_error(self.path)
            self._name(failures, self.failed_path)
            self._name(self._temporary, self.path)
        finally:
            failures.drop()

    def _is_same(self, written: _core.Temporary, there: Path) -> bool:
        """Whether nothing is lost by leaving what is there."""
        return not there.exists() or filecmp.cmp(written.path, there, shallow=False)

    def _name(self, written: _core.Temporary, path: Path) -> None:
        if self._overwrite or not path.exists():
            written.commit(self._overwrite)
        elif not self._is_same(written, path):
            raise exists_error(path)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Leave no temporary file."""
        self._thread.shutdown()
        self._temporary.drop()
