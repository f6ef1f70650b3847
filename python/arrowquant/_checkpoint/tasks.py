"""A job cut into tasks: units of the source, and who does them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from arrowquant._checkpoint import manifest as manifests
from arrowquant._checkpoint.records import Manifest, Part, Unit
from arrowquant._checkpoint.rows import Report
from arrowquant._checkpoint.unit import Quantized, Work, quantize_unit
from arrowquant._scan import Piece


def units_of(pieces: Sequence[Piece], part_bytes: int, key: str) -> list[Unit]:
    """Pieces of one file put together up to `part_bytes`; a layer in parts is never cut.

    A source without rows is one unit of the file called `key`, so that the dataset has its columns.
    """
    if not pieces:
        return [Unit(0, key, 0, 0, 0, 0, 0, 0)]
    groups: list[list[Piece]] = []
    filled = 0
    for piece in pieces:
        same_file = bool(groups) and groups[-1][0].file == piece.file
        if same_file and (piece.continues or filled + piece.bytes <= part_bytes):
            groups[-1].append(piece)
            filled += piece.bytes
        else:
            groups.append([piece])
            filled = piece.bytes
    units, row = [], 0
    for index, group in enumerate(groups):
        rows, layers = (sum(getattr(p, name) for p in group) for name in ("rows", "layers"))
        size = sum(piece.bytes for piece in group)
        first = group[0]
        units.append(Unit(index, first.file, first.position, len(group), row, rows, layers, size))
        row += rows
    return units


@dataclass(frozen=True)
class Task:
    """A unit to do, and all that whoever does it needs to know beside the work."""

    unit: Unit
    destination: Path
    manifest_id: str
    attempt: int
    old: Part | None
    """What the unit came to before, where only what failed then is to be done."""

    def quantize(self, work: Work, report: Report | None) -> Quantized:
        """Quantize the unit, or its failed rows, into files that have no names yet."""
        if self.old is None:
            return quantize_unit(work, self.unit, self._names(0), report)
        failed = pq.read_table(self.destination / self.old.failed.path)
        rows = failed["row_index"].combine_chunks()
        return quantize_unit(work, self.unit, self._names(self.attempt), report, rows=rows)

    def _names(self, attempt: int) -> tuple[Path, Path]:
        name = f"part-{self.unit.index:05}{f'-{attempt}' if attempt else ''}.parquet"
        return self.destination / "layers" / name, self.destination / "failed" / name

    def commit(self, quantized: Quantized) -> Part:
        """Name the files and write the receipt."""
        good, failed = quantized.name_files(self.destination)
        layers = [good]
        if self.old:
            layers = [*self.old.layers, good]
            if not good.rows:  # Nothing was gained.
                (self.destination / good.path).unlink()
                layers = self.old.layers
        old = self.old.hashes if self.old else ""
        part = Part(self.unit.index, layers, failed, self.attempt, quantized.hashes_over(old))
        manifests.commit(self.destination, self.manifest_id, part)
        return part

    def done(self) -> Part | None:
        """What this task came to already, on a worker that died after."""
        return manifests.receipt_of(
            self.destination, self.manifest_id, self.unit.index, self.attempt
        )


class Progress:
    """Reports of units as reports of the whole job; what was done before counts as done."""

    def __init__(self, report: Report | None, manifest: Manifest, units: Sequence[Unit]) -> None:
        todo = {unit.index for unit in units}
        self._report = report
        self._total = sum(unit.bytes for unit in manifest.units)
        self._done = sum(unit.bytes for unit in manifest.units if unit.index not in todo)
        if report is not None and self._done:
            report(False, None, self._done / self._total if self._total else None, self._done)

    def finished(self, unit: Unit) -> None:
        """Report a unit whose layers were done elsewhere."""
        heard = self.of(unit)
        if heard is not None:
            heard(True, None, None, unit.bytes)

    def of(self, unit: Unit) -> Report | None:
        """The report of a unit's bytes."""
        if self._report is None:
            return None
        report, before, total = self._report, self._done, self._total
        self._done += unit.bytes

        def heard(finished: bool, name: str | None, _fraction: float | None, size: int) -> Any:
            done = before + min(size, unit.bytes)
            return report(finished, name, done / total if total else None, done)

        return heard
