"""A dataset's layers, read without their codes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant._checkpoint.dataset import Dataset
from arrowquant._summary import Summary, layers_of


def rows(dataset: Dataset) -> list[dict[str, Any]]:
    """The good rows, each layer's parts put together."""
    reader = dataset.without_data()
    return layers_of(pa.Table.from_batches(list(reader), reader.schema).to_pylist())


def summary(dataset: Dataset, *, finished_before: int, seconds: float) -> Summary:
    """What became of a checkpoint's layers."""
    manifest = dataset.manifest
    done = manifest.done
    files = [file for part in manifest.parts for file in part.files]
    return Summary(
        Path(dataset.path),
        layers=rows(dataset),
        failed=dataset.failed.to_pylist(),
        source_bytes=sum(unit.bytes for unit in manifest.units if unit.index in done),
        file_bytes=sum(file.bytes for file in files),
        seconds=seconds,
        finished_before=finished_before,
        unfinished=manifest.layers - dataset.finished_layers,
        fallbacks=manifest.fallbacks,
    )
