"""A checkpoint with every layer decoded."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa

from arrowquant import _core
from arrowquant._dequantize import dequantize_stream
from arrowquant._export import shards
from arrowquant._export.layers import Layers
from arrowquant._model import read_config
from arrowquant._progress import ProgressCallback, counted
from arrowquant._safetensors import source_metadata
from arrowquant._scan import Scan


def write(
    relation: Scan,
    layers: Layers,
    folder: Path,
    shard_bytes: int,
    *,
    threads: int | None,
    progress: bool | ProgressCallback = False,
) -> None:
    """Write all layers in their own types, under the name that loaders look for."""
    named = {layer.tensor[0]: layer.tensor for layer in layers.layers}
    groups = [[tensor] for tensor in named.values()]
    stem = "adapter_model" if layers.is_adapter(read_config(folder)) else "model"
    stream = dequantize_stream(relation, threads=threads)
    with counted(progress, len(layers.layers)) as count:
        shards.write(
            folder,
            groups,
            count(stream),
            shard_bytes,
            metadata=source_metadata(relation),
            stem=stem,
        )


def decode(batch: pa.RecordBatch, threads: int | None) -> pa.RecordBatch:
    """The weights of one batch."""
    (weights, _, _), _ = _core.dequantize(batch, "source", threads, False)
    return pa.record_batch(weights[0])
