"""A dataset directory as a scan of the quantized relation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from arrowquant import _core
from arrowquant._checkpoint import manifest as manifests
from arrowquant._scan.base import Files, Piece, Scan, Setup, identity


class Dataset(Scan):
    """What `aq.quantize_checkpoint` wrote, finished or not."""

    def __init__(self, path: Path, setup: Setup | None = None) -> None:
        super().__init__(path, setup or Setup())
        self.manifest = manifests.load(path)
        self.paths = [path / file.path for part in self.manifest.parts for file in part.layers]

    @property
    def layers(self) -> int | None:
        is_finished = len(self.manifest.parts) == len(self.manifest.units)
        return self.manifest.layers if is_finished else None

    @property
    def row_count(self) -> int | None:
        return sum(file.rows for part in self.manifest.parts for file in part.layers)

    @property
    def metadata(self) -> dict[str, Any]:
        """What the source said beside its tensors."""
        return manifests.load_metadata(self.path)

    @cached_property
    def schema(self) -> pa.Schema:
        """Of all files together: a job that a later build went on with may have more columns."""
        if not self.paths:
            raise ValueError(f"{self.path}: nothing is finished yet. Run the job again.")
        return pa.unify_schemas([pq.read_schema(path) for path in self.paths])

    def reader(self) -> pa.RecordBatchReader:
        return self._read(self.paths, None)

    def mapped(self) -> Iterator[pa.RecordBatch]:
        """The relation's batches with a `data` of views into the mapped files."""
        for path in self.paths:
            for batch in pa.RecordBatchReader.from_stream(_core.mapped_parquet(path)):
                yield _aligned(batch, self.schema)

    def without_data(self) -> pa.RecordBatchReader:
        payload = set(_core.payload_columns())
        return self._read(self.paths, [name for name in self.schema.names if name not in payload])

    def without_codes(self) -> Iterator[pa.RecordBatch]:
        """The relation with a `data` of nulls, for who looks at parameters only."""
        fields = [field for field in self.schema if field.name != "data"]
        schema = pa.schema(fields, self.schema.metadata)
        for path in self.paths:
            for own in row_groups(path, schema.names):
                batch = _aligned(own, schema)
                yield batch.append_column("data", pa.nulls(batch.num_rows, pa.large_binary()))

    def _read(self, paths: Sequence[Path], columns: list[str] | None) -> pa.RecordBatchReader:
        schema = self.schema
        if columns is not None:
            schema = pa.schema([schema.field(name) for name in columns], schema.metadata)

        def batches() -> Iterator[pa.RecordBatch]:
            for path in paths:
                for batch in row_groups(path, columns):
                    yield _aligned(batch, schema)

        return pa.RecordBatchReader.from_batches(schema, batches())

    @property
    def source(self) -> Path | None:
        """Where it came from, if that is still there."""
        path = Path(self.manifest.source)
        return path if path.exists() else None

    @property
    def finished_layers(self) -> int:
        """How many of the source's layers are in finished units, failed ones among them."""
        done = self.manifest.done
        return sum(unit.layers for unit in self.manifest.units if unit.index in done)

    @property
    def failed(self) -> pa.Table:
        """The failed rows."""
        tables = [pq.read_table(self.path / part.failed.path) for part in self.manifest.parts]
        nothing = {"layer_name": pa.string(), "error_code": pa.string()}
        return pa.concat_tables(tables) if tables else pa.schema(nothing).empty_table()

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), "failed", "finished_layers"]

    def __repr__(self) -> str:
        count, failed = self.manifest.layers, self.failed.num_rows
        text = f"aq.Dataset({str(self.path)!r}): {self.finished_layers} of {count} layers finished"
        return text + (f", {failed} failed rows" if failed else "")

    def pieces(self) -> list[Piece]:
        return [
            Piece(path.name, group, rows, rows, 0, continues=False)
            for path in self.paths
            for group, rows in enumerate(_row_counts(path))
        ]

    def stretch(self, file: str, position: int, count: int) -> pa.RecordBatchReader:
        with pq.ParquetFile(self.path / "layers" / file) as opened:
            groups = list(range(position, position + count))
            batches = opened.read_row_groups(groups).to_batches()
        aligned = [_aligned(batch, self.schema) for batch in batches]
        return pa.RecordBatchReader.from_batches(self.schema, aligned)

    def files(self) -> Files:
        return [identity(path, f"layers/{path.name}") for path in self.paths]


def _aligned(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """A batch with nulls in the columns that its file does not have."""
    if batch.schema.names == schema.names:
        return batch
    nothing = [pa.nulls(batch.num_rows, field.type) for field in schema]
    pairs = zip(schema.names, nothing, strict=True)
    columns = [batch[name] if name in batch.schema.names else nulls for name, nulls in pairs]
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def row_groups(path: Path, columns: list[str] | None = None) -> Iterator[pa.RecordBatch]:
    """The row groups of a file of ours, each as one batch."""
    with pq.ParquetFile(path) as file:
        for group in range(file.num_row_groups):
            table: Any = file.read_row_group(group, columns=columns)
            yield from table.to_batches()


def _row_counts(path: Path) -> list[int]:
    metadata = pq.read_metadata(path)
    return [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
