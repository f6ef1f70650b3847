"""`aq.verify`: whether a dataset is what its manifest says, and what its source stands for."""

from __future__ import annotations

import math
import os
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from arrowquant import _core
from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint import plan as plans
from arrowquant._checkpoint.dataset import row_groups
from arrowquant._checkpoint.differences import RowsBelow, difference
from arrowquant._checkpoint.digests import Digests
from arrowquant._checkpoint.records import Manifest, Part, Unit
from arrowquant._checkpoint.rows import Report
from arrowquant._checkpoint.tasks import Progress
from arrowquant._files import user_path
from arrowquant._model import rules_of
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import Scan, Source, scan

_LISTED = 100
"""More rows that are missing are counted, not listed: a manifest may claim any number."""
_SCHEMA = pa.schema(
    {
        "file": pa.string(),
        "row_index": pa.int64(),
        "layer_name": pa.string(),
        "problem": pa.string(),
    }
)


@dataclass
class Verification:
    """What was looked at, and what is wrong with it."""

    files: int = 0
    rows: int = 0
    """Good rows; each was decoded."""
    failed_rows: int = 0
    compared: int = 0
    """Rows whose metrics were computed anew from the source."""
    found: list[dict[str, Any]] = field(default_factory=list)

    @property
    def problems(self) -> pa.Table:
        """A row for each: `file, row_index, layer_name, problem`."""
        return pa.Table.from_pylist(self.found, _SCHEMA)

    @property
    def ok(self) -> bool:
        """Whether there is none."""
        return not self.found

    def add(
        self, file: str | None, problem: str, row: int | None = None, layer: str | None = None
    ) -> None:
        """Note a problem."""
        found = {"file": file, "row_index": row, "layer_name": layer, "problem": problem}
        self.found.append(found)


def verify(
    dataset: str | os.PathLike[str],
    against: Source | None = None,
    *,
    threads: int | None = None,
    progress: bool | ProgressCallback = False,
) -> Verification:
    """Check a dataset that `aq.quantize_checkpoint` wrote.

    That all units are finished and their files are there, with the sizes and checksums of the
    manifest; that every row of the source is there exactly once, good or failed; that every good
    row can be decoded. With the source, also that each row is of the layer that it should be, and
    that its metrics, computed anew, are those that are stored; a kept row must hold the same bytes.

    Args:
        dataset: The directory.
        against: The source, as for `aq.scan`, or a scan with the same `part_bytes`.
        threads: As for `aq.quantize`.
        progress: True for a bar, or `callback(layer_name, fraction)`, which is called for each
            finished stretch of layers; the name is None.

    Returns:
        What was looked at, `.ok`, and `.problems`, a table.

    Raises:
        OSError, ValueError: There is no dataset, or no such source.
    """
    path = user_path(dataset)
    if path.is_file():
        raise NotADirectoryError(
            f"{path}: is a file, and verify checks datasets, the directories that quantize writes. "
            f"See a file's layers with: arrowquant inspect {path}"
        )
    manifest = manifests.load(path)
    source = None
    if against is not None:
        settings = manifest.settings
        source = scan(
            against,
            part_bytes=settings["part_bytes"],
            variant=settings.get("variant"),
            stack_axis=settings.get("stack_axis"),
        )
        source = source.with_axes(rules_of(settings.get("axis_rules", ())))
        source = source.in_order(*plans.places(manifest))
    with listener(progress) as report:
        return _Verifier(path, manifest, source, threads, report).run()


class _Verifier:
    def __init__(
        self,
        path: Path,
        manifest: Manifest,
        source: Scan | None,
        threads: int | None,
        report: Report | None,
    ) -> None:
        self._path, self._manifest, self._source = path, manifest, source
        self._progress = Progress(report, manifest, manifest.units)
        self._threads = threads
        self._found = Verification()

    def run(self) -> Verification:
        """Check everything."""
        self._check_listing()
        self._check_units()
        done = self._manifest.done
        # The next unit's files are hashed while the rows of one are looked at.
        with ThreadPoolExecutor(1, "arrowquant-verify") as thread:
            digests = Digests(thread, self._path, [done[i] for i in sorted(done)])
            for unit in self._manifest.units:
                part = done.get(unit.index)
                if part is None:
                    self._found.add(
                        None,
                        f"unit {unit.index} of {len(self._manifest.units)} ({unit.layers} layers) "
                        "is not finished. Run the job again.",
                    )
                elif self._check_files(part, digests):
                    self._check_unit(unit, part)
                self._progress.finished(unit)
        self._check_source_rows()
        self._check_source_tensors()
        return self._found

    def _check_listing(self) -> None:
        """Engines read `layers/*.parquet`: nothing else may be there."""
        listed = {file.path for part in self._manifest.parts for file in part.files}
        for folder in ("layers", "failed"):
            for path in sorted((self._path / folder).glob("*.parquet")):
                name = f"{folder}/{path.name}"
                if name not in listed:
                    self._found.add(name, "the manifest does not know this file")

    def _check_units(self) -> None:
        """Units must account for every layer of the plan, and no row may be in two."""
        manifest, end = self._manifest, 0
        for unit in sorted(manifest.units, key=lambda unit: unit.first_row):
            if unit.first_row < end:
                self._found.add(None, f"unit {unit.index} has rows of another one", unit.first_row)
            end = unit.first_row + unit.rows
        if manifest.layers != len(manifest.plan):
            self._found.add(
                None,
                f"units account for {manifest.layers} layers, the plan for {len(manifest.plan)}",
            )

    def _check_files(self, part: Part, digests: Digests) -> bool:
        """Whether a unit's files are there and have the manifest's checksums."""
        before = len(self._found.found)
        for file in part.files:
            self._found.files += 1
            path = self._path / file.path
            if not path.is_file():
                self._found.add(file.path, "is missing")
                continue
            size = path.stat().st_size
            if size != file.bytes:
                self._found.add(file.path, f"has {size:,} bytes, the manifest says {file.bytes:,}")
                continue
            if digests.of(part, file.path) != file.sha256:
                self._found.add(file.path, "has another SHA-256 than the manifest says")
        return len(self._found.found) == before

    def _check_unit(self, unit: Unit, part: Part) -> None:
        """Its rows, each once, and what is in them."""
        indices: list[int] = []
        for file in part.files:
            column = pq.read_table(self._path / file.path, columns=["row_index"])["row_index"]
            if len(column) != file.rows:
                self._found.add(file.path, f"has {len(column)} rows, the manifest says {file.rows}")
            indices += column.to_pylist()
        self._found.failed_rows += part.failed.rows
        expected = range(unit.first_row, unit.first_row + unit.rows)
        counts, name = Counter(indices), part.layers[0].path
        if len(expected) > len(indices) + _LISTED:
            missing = len(expected) - len(indices)
            self._found.add(name, f"{missing} of the unit's {len(expected)} rows are missing")
        else:
            for row in expected:
                if row not in counts:
                    self._found.add(name, "a row of the source is missing", row)
        for row, count in sorted(counts.items()):
            if count > 1:
                self._found.add(name, f"a row of the source is there {count} times", row)
            if row not in expected:
                self._found.add(name, "a row of another unit", row)
        readers = {file.path: RowsBelow(row_groups(self._path / file.path)) for file in part.layers}
        if self._source is None:
            for name, rows in readers.items():
                for batch in rows.below(None):
                    self._decode(name, batch)
            return
        self._compare_unit(self._source, unit, readers)

    def _decode(self, file: str, batch: pa.RecordBatch) -> None:
        """See whether a batch's rows can be decoded."""
        (_, _, failed), _ = _core.dequantize(batch, "F32", self._threads, True)
        self._found.rows += batch.num_rows
        for bad in map(pa.record_batch, failed):
            for row in bad.to_pylist():
                index = batch["row_index"][row["row_index"]].as_py()
                self._found.add(file, row["error_message"], index, row["layer_name"])

    def _compare_unit(self, source: Scan, unit: Unit, readers: dict[str, RowsBelow]) -> None:
        start = unit.first_row
        try:
            for batch in source.stretch(unit.file, unit.position, unit.pieces):
                for name, rows in readers.items():
                    for quantized in rows.below(start + batch.num_rows):
                        self._compare(name, quantized, batch, start)
                start += batch.num_rows
        except (OSError, IndexError, pa.ArrowException) as error:
            self._found.add(None, f"the source can't be read: {error}", start)
        for name, rows in readers.items():
            for quantized in rows.below(None):
                self._found.add(
                    name, "rows that the source does not have", quantized["row_index"][0].as_py()
                )

    def _compare(
        self, file: str, quantized: pa.RecordBatch, batch: pa.RecordBatch, start: int
    ) -> None:
        at = pc.subtract(quantized["row_index"], start)
        same = len(at) == batch.num_rows and at.equals(pa.array(range(len(at)), at.type))
        source = batch if same else batch.take(at)
        compared = _core.compare(source, quantized, self._threads)
        self._found.rows += len(compared)
        self._found.compared += len(compared)
        columns = ["layer_name", "dtype", "shape"]
        wanted = source.select([n for n in columns if n in source.schema.names]).to_pylist()
        stored = quantized.select(
            ["row_index", *columns, "scheme", "search", "mse", "max_abs_error", "snr_db"]
        ).to_pylist()
        for row, origin, measured in zip(stored, wanted, compared, strict=True):
            *measures, undecodable = measured
            problem = undecodable or difference(row, origin, measures)
            if problem:
                self._found.add(file, problem, row["row_index"], row["layer_name"])

    def _check_source_tensors(self) -> None:
        """The source's rows are all of its tensors' elements, each once, also those of stacks."""
        tensors = None if self._source is None else self._source.tensor_elements()
        if self._source is None or tensors is None:
            return
        counts: dict[str, int] = dict.fromkeys(tensors, 0)
        made_of = self._source.made_of()
        elements: dict[str, list[int]] = {}
        for batch in self._source.outline().to_batches():
            names = pc.coalesce(batch["stack_name"], batch["layer_name"]).to_pylist()
            told = [batch[name].to_pylist() for name in ("layer_name", "shape", "layer_shape")]
            for name, layer, shape, whole in zip(names, *told, strict=True):
                if name not in made_of:
                    if name in counts and shape is not None:
                        counts[name] += math.prod(shape)
                    continue
                # Made of several tensors, each of which is there once if all of the layer is.
                part = elements.setdefault(layer, [0, math.prod(whole or shape)])
                part[0] += math.prod(shape)
                counts |= {one: tensors.get(one, 0) for one in made_of[name]}
        for layer, (found, wanted) in elements.items():
            if found != wanted:
                why = f"the source's rows hold {found} of its {wanted} elements"
                self._found.add(None, why, None, layer)
        for name, found in counts.items():
            if found != tensors[name]:
                why = f"the source's rows hold {found} of this tensor's {tensors[name]} elements"
                self._found.add(None, why, None, name)

    def _check_source_rows(self) -> None:
        """Every row of the source belongs to a unit, which is of the stretch that it says."""
        if self._source is None:
            return
        pieces = self._source.pieces()
        there = sum(piece.rows for piece in pieces)
        known = sum(unit.rows for unit in self._manifest.units)
        if there != known:
            self._found.add(None, f"the source has {there} rows, the manifest accounts for {known}")
        stretches = {(piece.file, piece.position): at for at, piece in enumerate(pieces)}
        for unit in self._manifest.units:
            at = stretches.get((unit.file, unit.position))
            own = [] if at is None else pieces[at : at + unit.pieces]
            found = (
                len(own),
                sum(piece.rows for piece in own),
                sum(piece.layers for piece in own),
                sum(piece.bytes for piece in own),
            )
            if found != (unit.pieces, unit.rows, unit.layers, unit.bytes):
                self._found.add(
                    None, f"unit {unit.index} is of no such stretch of the source", unit.first_row
                )
