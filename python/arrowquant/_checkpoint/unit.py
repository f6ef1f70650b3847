"""One unit of a checkpoint: quantized into two files, whose names come last."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._checkpoint.manifest import PartFile, Unit
from arrowquant._options import Options
from arrowquant._parquet import AtomicParquet
from arrowquant._scan import Files, Scan

Report = Callable[[bool, str | None, float | None, int], Any]
Layer = tuple[str, str]
"""The file that a layer comes from, and its name."""


@dataclass(frozen=True)
class Work:
    """What all units share."""

    scan: Scan
    files: Files
    """The source's files when the job began."""
    outline: pa.Table
    """The source's rows without their data."""
    plan: pa.Table
    options: Options


class _UnreadableError(Exception):
    """The source could not be read, or changed meanwhile."""


@dataclass
class Quantized:
    """A unit that is quantized, in files that have no names yet."""

    unit: Unit
    writer: AtomicParquet
    failed: pa.Table
    rows: int

    def name_files(self, dataset: Path) -> tuple[PartFile, PartFile]:
        """Sync the files, give them their names, and return the good rows' and the failed rows'."""
        with self.writer as writer:
            writer.commit(self.failed)
        good = _described(dataset, writer.path, self.rows)
        return good, _described(dataset, writer.failed_path, self.failed.num_rows)

    def drop(self) -> None:
        """Leave no files."""
        self.writer.__exit__(None, None, None)


def _described(dataset: Path, path: Path, rows: int) -> PartFile:
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    return PartFile(path.relative_to(dataset).as_posix(), rows, path.stat().st_size, digest)


def quantize_unit(
    work: Work,
    unit: Unit,
    names: tuple[Path, Path],
    report: Report | None,
    *,
    rows: pa.Array | None = None,
    before: pa.Table | None = None,
) -> Quantized:
    """Quantize a unit, or only its rows with the indices `rows`, into files of these names.

    A layer in parts fails as one. A part that is good is written before a later one is seen to be
    bad, so where that happens the unit is done again, now knowing it. `before` are failed rows that
    stay as they are.

    Raises:
        QuantizationError: A row failed, and `continue_on_error` is off.
        OSError: A file can't be written.
    """
    doomed: set[Layer] = set()
    while True:
        attempt = _Attempt(work, unit, rows, doomed)
        writer = AtomicParquet(*names, attempt.good_schema)
        try:
            try:
                attempt.run(writer, report)
            except _UnreadableError as error:
                attempt = _Attempt(work, unit, rows, doomed)
                writer.__exit__(None, None, None)
                writer = AtomicParquet(*names, attempt.good_schema)
                attempt.fail_all(str(error))
            if not attempt.doomed_too_late:
                failed = attempt.failed(before)
                return Quantized(unit, writer, failed, attempt.written)
        except BaseException:
            writer.__exit__(None, None, None)
            raise
        writer.__exit__(None, None, None)
        doomed |= attempt.doomed_too_late


class _Attempt:
    def __init__(self, work: Work, unit: Unit, rows: pa.Array | None, doomed: set[Layer]) -> None:
        self._work, self._unit, self._rows, self._doomed = work, unit, rows, set(doomed)
        self._quantizer = _core.Quantizer(work.scan.schema, work.plan, work.options, unit.first_row)
        schemas = self._quantizer.schemas
        self.good_schema, self._failed_schema = pa.schema(schemas[0]), pa.schema(schemas[2])
        self._failed: list[pa.RecordBatch] = []
        self._good_parts: set[Layer] = set()
        self.written = 0
        self.doomed_too_late: set[Layer] = set()

    def run(self, writer: AtomicParquet, report: Report | None) -> None:
        """Quantize batch by batch."""
        done, base = 0, self._unit.first_row
        for indices, batch in self._batches():
            heard = None if report is None else _shifted(report, done)
            good, errors, bad = map(pa.record_batch, self._quantizer.quantize(batch, heard))
            done += _core.weight_bytes(batch)
            self._check_unchanged()
            if bad.num_rows:
                good = pa.record_batch(_core.select(good, errors, False))
            if self._rows is not None:
                good, bad = (_reindexed(part, indices, base) for part in (good, bad))
            base += batch.num_rows
            good = self._apart(good, bad)
            self._failed.append(bad)
            writer.write(good)
            self.written += good.num_rows

    def fail_all(self, why: str) -> None:
        """All rows fail, since their source can't be read."""
        unit = self._unit
        outline = self._work.outline.slice(unit.first_row, unit.rows)
        indices = pa.array(range(unit.first_row, unit.first_row + unit.rows), pa.int64())
        if self._rows is not None:
            wanted = pc.is_in(indices, self._rows)
            outline, indices = outline.filter(wanted), indices.filter(wanted)
        names, files = outline["layer_name"].to_pylist(), outline["source_file"].to_pylist()
        messages = [
            f"layer '{name}' ({file}): {why}" for name, file in zip(names, files, strict=True)
        ]
        data = self._work.scan.schema.field("data")
        outline = outline.drop_columns(
            [name for name in ("error_code", "error_message") if name in outline.schema.names]
        )
        table = outline.append_column(data, pa.nulls(len(names), data.type))
        table = table.append_column("error_code", pa.repeat("source_unreadable", len(names)))
        table = table.append_column("error_message", pa.array(messages, pa.string()))
        quantizer = _core.Quantizer(table.schema, None, self._work.options, 0)
        for batch in table.combine_chunks().to_batches():
            _, _, bad = map(pa.record_batch, quantizer.quantize(batch, None))
            bad = _reindexed(bad, indices, 0).select(self._failed_schema.names)
            self._failed.append(pa.record_batch(bad.columns, schema=self._failed_schema))

    def failed(self, before: pa.Table | None) -> pa.Table:
        """The failed rows, in order."""
        table = pa.Table.from_batches(self._failed, self._failed_schema)
        if before is not None:
            table = pa.concat_tables([before.cast(self._failed_schema), table])
        return table.sort_by("row_index")

    def _batches(self) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        """The unit's batches with their rows' indices."""
        unit, next_row = self._unit, self._unit.first_row
        end = unit.first_row + unit.rows
        try:
            reader = self._work.scan.stretch(unit.file, unit.position, unit.pieces)
            while (batch := _next(reader)) is not None:
                indices = pa.array(range(next_row, next_row + batch.num_rows), pa.int64())
                next_row += batch.num_rows
                if self._rows is not None:
                    wanted = pc.is_in(indices, self._rows)
                    indices, batch = indices.filter(wanted), batch.filter(wanted)
                if batch.num_rows:
                    yield indices, batch
        except (OSError, pa.ArrowException) as error:
            raise _UnreadableError(f"{error}") from error
        if next_row != end:
            raise _UnreadableError(
                f"the source has {next_row - unit.first_row} rows here, not {unit.rows}: it "
                "changed. Run again on a source that nobody writes to."
            )

    def _check_unchanged(self) -> None:
        now = {name: rest for name, *rest in self._work.scan.files()}
        for name, *before in self._work.files:
            if now.get(name) != before:
                raise _UnreadableError(
                    f"{name} changed while it was read. Run again on a source that nobody writes "
                    "to."
                )

    def _apart(self, good: pa.RecordBatch, bad: pa.RecordBatch) -> pa.RecordBatch:
        """The good rows without those whose layers fail in another part; these fail, too."""
        self._doomed.update(layer for layer, count in _layers(bad) if count > 1)
        of_parts = [layer if count > 1 else None for layer, count in _layers(good)]
        self.doomed_too_late |= self._doomed & self._good_parts
        lost = [layer in self._doomed if layer else False for layer in of_parts]
        self._good_parts.update(
            layer for layer, is_lost in zip(of_parts, lost, strict=True) if layer and not is_lost
        )
        if not any(lost):
            return good
        mask = pa.array(lost, pa.bool_())
        self._failed.append(_incomplete(good.filter(mask), self._failed_schema))
        return good.filter(pc.invert(mask))


def _next(reader: pa.RecordBatchReader) -> pa.RecordBatch | None:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _shifted(report: Report, done: int) -> Report:
    """The report of a batch as one of the unit."""

    def shifted(finished: bool, name: str | None, fraction: float | None, size: int) -> Any:
        return report(finished, name, fraction, done + size)

    return shifted


def _reindexed(batch: pa.RecordBatch, indices: pa.Array, base: int) -> pa.RecordBatch:
    """The batch with its rows' own indices, where they were counted from `base` on."""
    own = indices.take(pc.subtract(batch["row_index"], base))
    return batch.set_column(
        batch.schema.get_field_index("row_index"), batch.schema.field("row_index"), own
    )


def _layers(batch: pa.RecordBatch) -> list[tuple[Layer, int]]:
    """The layer of each row, and in how many parts it comes."""
    if not {"part_count", "source_file"} <= set(batch.schema.names):
        return [(("", name), 1) for name in batch["layer_name"].to_pylist()]
    columns = (batch[name].to_pylist() for name in ("source_file", "layer_name", "part_count"))
    return [((file, name), count or 1) for file, name, count in zip(*columns, strict=True)]


def _incomplete(good: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Good parts as failed rows."""
    told = ("layer_name", "dtype", "shape", "part_index", "part_count")
    rows = zip(*(good[name].to_pylist() for name in told), strict=True)
    messages = [
        f"layer '{name}' ({dtype} {shape}): part {index + 1} of {count} is good, but another part "
        "of the layer failed. See that part."
        for name, dtype, shape, index, count in rows
    ]
    known = {
        "error_code": pa.repeat("incomplete_layer", good.num_rows),
        "error_message": pa.array(messages, pa.string()),
    }
    known |= {name: good[name] for name in schema.names if name in good.schema.names}
    columns = [known.get(field.name, pa.nulls(good.num_rows, field.type)) for field in schema]
    return pa.RecordBatch.from_arrays(columns, schema=schema)
