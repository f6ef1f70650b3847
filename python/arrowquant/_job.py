"""A file quantized into a file, with a summary for people."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._options import Options
from arrowquant._parquet import AtomicParquet
from arrowquant._progress import ProgressCallback, listener
from arrowquant._scan import Scan

_SHOWN = ["layer_name", "shape", "scheme", "bits_per_weight", "snr_db"]
_WORST = 5


@dataclass
class Summary:
    """What became of a checkpoint's layers. Sizes are bytes."""

    output: Path
    layers: list[dict[str, Any]] = field(default_factory=list)
    failed: list[dict[str, Any]] = field(default_factory=list)
    source_bytes: int = 0
    file_bytes: int = 0
    seconds: float = 0.0

    @property
    def quantized(self) -> list[dict[str, Any]]:
        """The layers that were quantized."""
        return [layer for layer in self.layers if layer["scheme"] != "none"]

    @property
    def kept(self) -> list[dict[str, Any]]:
        """The layers that were kept as they are."""
        return [layer for layer in self.layers if layer["scheme"] == "none"]

    @property
    def weights(self) -> int:
        """How many weights the good layers have."""
        return sum(map(_count, self.layers))

    @property
    def output_bytes(self) -> int:
        """Codes, scales and zero points, and the kept layers' bytes."""
        sized = (layer for layer in self.layers if layer["bits_per_weight"] is not None)
        bits: float = sum(layer["bits_per_weight"] * _count(layer) for layer in sized)
        return math.ceil(bits / 8)

    @property
    def bits_per_weight(self) -> float | None:
        """Over all good layers."""
        return 8 * self.output_bytes / self.weights if self.weights else None

    @property
    def worst(self) -> list[dict[str, Any]]:
        """The layers with the lowest SNR."""
        lossy = [layer for layer in self.layers if layer["snr_db"] is not None]
        return sorted(lossy, key=lambda layer: layer["snr_db"])[:_WORST]

    def as_json(self) -> dict[str, Any]:
        """For machines."""
        return {
            "output": str(self.output),
            "quantized": len(self.quantized),
            "kept": len(self.kept),
            "failed": len(self.failed),
            "source_bytes": self.source_bytes,
            "output_bytes": self.output_bytes,
            "file_bytes": self.file_bytes,
            "weights": self.weights,
            "bits_per_weight": self.bits_per_weight,
            "seconds": self.seconds,
            "lowest_snr": [
                {key: layer[key] for key in ("layer_name", "scheme", "bits_per_weight", "snr_db")}
                for layer in self.worst
            ],
            "failures": self.failed,
        }


def _count(layer: dict[str, Any]) -> int:
    """A layer's elements; a kept one of a dtype that nobody knows may have no shape."""
    return 0 if layer["shape"] is None else math.prod(layer["shape"])


def quantize_file(
    source: Scan,
    output: Path,
    *,
    plan: pa.Table | None,
    options: Options,
    progress: bool | ProgressCallback,
) -> Summary:
    """Quantize `source` into the Parquet file `output`, one batch at a time.

    Raises:
        QuantizationError: A row failed and `continue_on_error` is off; nothing is written.
        OSError, TypeError, ValueError: The call is wrong, or a file can't be read or written.
    """
    started = time.monotonic()
    quantizer = _core.Quantizer(source.schema, plan, options)
    quantized, _, failed, _ = (pa.schema(schema) for schema in quantizer.schemas)
    summary, failures = Summary(output), []
    with AtomicParquet(output, quantized) as writer, listener(progress) as callback:
        for batch in source:
            done = summary.source_bytes
            report = _continued(callback, done, source.data_bytes) if callback else None
            good, errors, bad = map(pa.record_batch, quantizer.quantize(batch, report))
            if bad.num_rows:
                good = pa.record_batch(_core.select(good, errors, False))
                failures.append(bad)
            writer.write(good)
            summary.layers += good.select(_SHOWN).to_pylist()
            summary.source_bytes += _core.weight_bytes(batch)
        table = pa.Table.from_batches(failures, failed)
        writer.commit(table)
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
