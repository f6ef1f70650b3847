"""One unit of a checkpoint: quantized into two files, whose names come last."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import groupby
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._checkpoint import plan as plans
from arrowquant._checkpoint.records import HASH_DIGITS, PartFile, Unit
from arrowquant._checkpoint.rows import Counted, Layer, Report, incomplete, layers_of
from arrowquant._facts import is_part, needs_of, with_columns
from arrowquant._options import Options
from arrowquant._parquet import AtomicParquet
from arrowquant._scan import Files, Scan


@dataclass(frozen=True)
class Work:
    """What all units share."""

    scan: Scan
    files: Files
    """The source's files when the job began."""
    outline: pa.Table
    """The source's rows without their data."""
    offsets: dict[tuple[str, int], int]
    """Where in it the rows of a file begin from some position on."""
    plan: pa.Table
    options: Options

    @cached_property
    def read_plan(self) -> _core.Plan:
        """The plan, read once for all units."""
        return _core.Plan(self.plan)

    def rows_of(self, unit: Unit) -> pa.Table:
        """A unit's rows without their data."""
        return self.outline.slice(self.offsets.get((unit.file, unit.position), 0), unit.rows)

    def __getstate__(self) -> dict[str, Any]:
        """What another process needs: it reads the plan itself."""
        return {name: value for name, value in self.__dict__.items() if name != "read_plan"}


class _UnreadableError(Exception):
    """The source could not be read, or changed meanwhile."""


@dataclass
class Quantized:
    """A unit that is quantized, in files that have no names yet."""

    unit: Unit
    writer: AtomicParquet
    failed: pa.Table
    rows: int
    hashes: dict[int, str]
    """Of each row that was read, by its place in the unit."""

    def hashes_over(self, old: str) -> str:
        """The hashes of all the unit's rows; of those that were not read now, the old ones."""
        nothing = "-" * HASH_DIGITS
        before = [old[at : at + HASH_DIGITS] for at in range(0, len(old), HASH_DIGITS)]
        before += [nothing] * (self.unit.rows - len(before))
        return "".join(self.hashes.get(at, known) for at, known in enumerate(before))

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
) -> Quantized:
    """Quantize a unit, or only its rows with the indices `rows`, into files of these names.

    A layer in parts is one layer: it fails as one, and has scales of one type. A part is written
    before a later one is seen to be bad, or to need wider scales; where that happens the unit is
    done again, now knowing it.

    Raises:
        QuantizationError: A row failed, and `continue_on_error` is off.
        OSError: A file can't be written.
    """
    known, options = _Known(), _with_columns(work, unit)
    while True:
        attempt = _Attempt(work, unit, rows, known, options)
        writer = AtomicParquet(*names, attempt.good_schema)
        try:
            attempt.run(writer, report)
        except _UnreadableError as error:
            _drop(writer)
            attempt = _Attempt(work, unit, rows, known, options)
            writer = AtomicParquet(*names, attempt.good_schema)
            try:
                attempt.fail_all(str(error))
            except BaseException:
                _drop(writer)
                raise
        except BaseException:
            _drop(writer)
            raise
        learned = attempt.learned
        if learned == known:
            return Quantized(unit, writer, attempt.failed, attempt.written, attempt.hashes)
        _drop(writer)
        known = learned


def _with_columns(work: Work, unit: Unit) -> Options:
    """The options with how much the columns of the unit's layers in parts matter."""
    outline = work.rows_of(unit)
    needs = needs_of(outline.filter(is_part(outline)), work.read_plan, work.options)
    stretch = work.scan.stretch(unit.file, unit.position, unit.pieces) if needs.columns else []
    return with_columns(work.options, needs.columns, [(needs.columns, stretch)])


def _drop(writer: AtomicParquet) -> None:
    """Leave no file."""
    writer.__exit__(None, None, None)


@dataclass(frozen=True)
class _Known:
    """What is known of a unit's layers in parts before they are done."""

    doomed: frozenset[Layer] = frozenset()
    """A part of it fails."""
    wide: frozenset[Layer] = frozenset()
    """A part of it needs float32 scales, though others are asked for."""


class _Attempt:
    def __init__(
        self, work: Work, unit: Unit, rows: pa.Array | None, known: _Known, options: Options
    ) -> None:
        self._work, self._unit, self._rows, self._known = work, unit, rows, known
        self._options = options
        self._doomed = set(known.doomed)
        self._schema = plans.without_columns(work.scan.schema)
        self._quantizers: dict[bool, Counted] = {}
        self.good_schema, self._failed_schema = self._quantizer(wide=False).schemas
        self._failed: list[pa.RecordBatch] = []
        self._good_parts: set[Layer] = set()
        self._too_late: set[Layer] = set()
        self._scales: dict[Layer, set[str | None]] = {}
        self.written = 0
        self.hashes: dict[int, str] = {}

    def _quantizer(self, *, wide: bool) -> Counted:
        if wide not in self._quantizers:
            options, plan = self._options, self._work.read_plan
            if wide:
                # What the plan says of all else holds for these layers, too.
                options = replace(options, scheme="none", settings={"scale_dtype": "F32"})
                plan = _core.Plan(self._work.plan.drop_columns(["scale_dtype"]))
            self._quantizers[wide] = Counted(self._schema, plan, options)
        return self._quantizers[wide]

    def run(self, writer: AtomicParquet, report: Report | None) -> None:
        """Quantize batch by batch."""
        done = 0
        for indices, batch in self._batches():
            self.hashes |= row_hashes(batch, indices, self._unit, self._work.options.threads)
            for start, count, wide in self._runs(batch):
                some, own = batch.slice(start, count), indices.slice(start, count)
                heard = None if report is None else _shifted(report, done)
                good, bad = self._quantizer(wide=wide).quantize(some, own, heard)
                done += _core.weight_bytes(some)
                self._check_unchanged()
                good = self._apart(good, bad)
                self._failed += [bad] if bad.num_rows else []
                writer.write(good)
                self.written += good.num_rows

    def _runs(self, batch: pa.RecordBatch) -> Iterator[tuple[int, int, bool]]:
        """Stretches of rows that take the same scales."""
        if not self._known.wide:
            yield 0, batch.num_rows, False
            return
        start = 0
        for wide, run in groupby(layer in self._known.wide for layer, _ in layers_of(batch)):
            count = len(list(run))
            yield start, count, wide
            start += count

    def fail_all(self, why: str) -> None:
        """All rows fail, since their source can't be read."""
        unit = self._unit
        outline = plans.without_table_columns(self._work.rows_of(unit))
        indices = pa.array(range(unit.first_row, unit.first_row + outline.num_rows), pa.int64())
        if self._rows is not None:
            wanted = pc.is_in(indices, self._rows)
            outline, indices = outline.filter(wanted), indices.filter(wanted)
        names, files = outline["layer_name"].to_pylist(), outline["source_file"].to_pylist()
        messages = [
            f"layer '{name}' ({file}): {why}" for name, file in zip(names, files, strict=True)
        ]
        data = self._work.scan.schema.field("data")
        errors = [name for name in ("error_code", "error_message") if name in outline.schema.names]
        table = outline.drop_columns(errors).append_column(data, pa.nulls(len(names), data.type))
        table = table.append_column("error_code", pa.repeat("source_unreadable", len(names)))
        table = table.append_column("error_message", pa.array(messages, pa.string()))
        quantizer = Counted(table.schema, self._work.read_plan, self._work.options)
        for batch in table.combine_chunks().to_batches():
            _, bad = quantizer.quantize(batch, indices, None)
            bad = bad.select(self._failed_schema.names)
            self._failed.append(pa.record_batch(bad.columns, schema=self._failed_schema))

    @property
    def failed(self) -> pa.Table:
        """The failed rows, in order."""
        return pa.Table.from_batches(self._failed, self._failed_schema).sort_by("row_index")

    @property
    def learned(self) -> _Known:
        """What was known, and what was learned too late."""
        mixed = {layer for layer, dtypes in self._scales.items() if len(dtypes) > 1}
        return _Known(self._known.doomed | self._too_late, self._known.wide | mixed)

    def _batches(self) -> Iterator[tuple[pa.Array, pa.RecordBatch]]:
        """The unit's batches with their rows' indices."""
        unit, next_row = self._unit, self._unit.first_row
        end = unit.first_row + unit.rows
        try:
            reader = self._work.scan.stretch(unit.file, unit.position, unit.pieces)
            while (batch := _next(reader)) is not None:
                batch = plans.without_table_columns(batch)
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
        self._doomed.update(layer for layer, count in layers_of(bad) if count > 1)
        of_parts = [layer if count > 1 else None for layer, count in layers_of(good)]
        for layer, dtype in zip(of_parts, good["scale_dtype"].to_pylist(), strict=True):
            if layer:
                self._scales.setdefault(layer, set()).add(dtype)
        self._too_late |= self._doomed & self._good_parts
        lost = [layer in self._doomed if layer else False for layer in of_parts]
        self._good_parts.update(
            layer for layer, is_lost in zip(of_parts, lost, strict=True) if layer and not is_lost
        )
        if not any(lost):
            return good
        mask = pa.array(lost, pa.bool_())
        self._failed.append(incomplete(good.filter(mask), self._failed_schema))
        return good.filter(pc.invert(mask))


def row_hashes(
    batch: pa.RecordBatch, indices: pa.Array, unit: Unit, threads: int | None
) -> dict[int, str]:
    """The hash of each row's bytes, by its place in its unit."""
    places = pc.subtract(indices, unit.first_row).to_pylist()
    found = _core.content_hashes(batch, threads)
    return {
        place: "-" * HASH_DIGITS if value is None else f"{value:0{HASH_DIGITS}x}"
        for place, value in zip(places, found, strict=True)
    }


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
