"""A file quantized into a file, with a summary for people."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._facts import facts
from arrowquant._options import Options
from arrowquant._parquet import AtomicParquet, failed_path
from arrowquant._plan import fallbacks_of
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import Scan
from arrowquant._scan.tables import with_source_metadata
from arrowquant._summary import COLUMNS, MEANING_COLUMNS, PART_COLUMNS, Summary, layers_of


def quantize_file(
    source: Scan,
    output: Path,
    *,
    plan: pa.Table | None,
    options: Options,
    overwrite: bool,
    progress: bool | ProgressCallback,
) -> Summary:
    """Quantize `source` into the Parquet file `output`, one batch at a time.

    Raises:
        QuantizationError: A row failed and `continue_on_error` is off; nothing is written.
        OSError, TypeError, ValueError: The call is wrong, or a file can't be read or written.
    """
    started = time.monotonic()
    options = facts(source, plan, options)
    quantizer = _core.Quantizer(source.schema, plan, options, 0)
    quantized, _, failed = (pa.schema(schema) for schema in quantizer.schemas)
    stored = with_source_metadata(quantized, source.metadata)
    summary, failures = Summary(output), []
    rows: list[dict[str, Any]] = []
    shown = [
        name for name in (*COLUMNS, *MEANING_COLUMNS, *PART_COLUMNS) if name in quantized.names
    ]
    with (
        AtomicParquet(output, failed_path(output), stored, overwrite=overwrite) as writer,
        listener(progress) as callback,
    ):
        for batch in source:
            done = summary.source_bytes
            report = _continued(callback, done, source.data_bytes) if callback else None
            good, errors, bad = map(pa.record_batch, quantizer.quantize(batch, report))
            if bad.num_rows:
                good = pa.record_batch(_core.select(good, errors, False))
                failures.append(bad)
            writer.write(good)
            rows += good.select(shown).to_pylist()
            summary.source_bytes += _core.weight_bytes(batch)
        table = pa.Table.from_batches(failures, failed)
        writer.commit(table)
    summary.layers = layers_of(rows)
    summary.fallbacks = {} if plan is None else fallbacks_of(plan)
    summary.failed = table.to_pylist()
    summary.file_bytes = output.stat().st_size
    summary.seconds = time.monotonic() - started
    return summary


def _continued(callback: Any, done: int, total: int | None) -> Any:
    """The callback, told of bytes since the beginning rather than since the batch's."""

    def report(finished: bool, name: str | None, _fraction: float | None, size: int) -> None:
        fraction = min((done + size) / total, 1.0) if total else None
        callback(finished, name, fraction, done + size)

    return report
