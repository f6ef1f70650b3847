"""`aq.write_safetensors`: a checkpoint from a weights relation, tensor by tensor.

A safetensors header comes first in the file, so all tensors are announced before any is written.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._dequantize import dequantize_stream
from arrowquant._files import check_output, user_path
from arrowquant._inputs import named, weights_table
from arrowquant._options import Dtype
from arrowquant._progress import ProgressCallback, counted
from arrowquant._scan import Scan
from arrowquant._tensors import Layer, layers_of, stacked

Tensors = Sequence[tuple[str, str, list[int]]]


SUFFIXES = (".safetensors",)


def write_safetensors(
    weights: Any, path: str | os.PathLike[str], *, overwrite: bool = False
) -> None:
    """Write a weights relation with binary data as a safetensors file.

    The file is written under a temporary name, synced and renamed. `weights` is held in memory as
    it is given; no further copy is made. Layers in parts are put together in the file.

    Args:
        weights: An `aq.dequantize` result, a mapping of names to arrays, a torch module, or any
            table `layer_name, dtype, shape, data`.
        path: The file, which ends in `.safetensors`.
        overwrite: Whether to replace a file that exists.

    Raises:
        ValueError: A layer has no data or lacks a part, a name comes twice, data and shape
            disagree, or the path ends otherwise.
        OSError: The file exists, or can't be written.
    """
    path = user_path(path)
    check_output(path, SUFFIXES, overwrite=overwrite)
    table = weights_table(weights)
    missing = table.filter(table["data"].is_null())
    if missing.num_rows:
        names = ", ".join(map(repr, missing["layer_name"].to_pylist()))
        why = missing["error_message"].to_pylist() if "error_message" in table.schema.names else []
        raise ValueError(
            f"layers without data can't be written: {names}. Filter them out."
            + "".join(f" {reason}" for reason in why[:1] if reason)
        )
    layers = list(layers_of(table))
    incomplete = [layer.name for layer in layers if not layer.is_complete]
    if incomplete:
        names = ", ".join(repr(name) for name in incomplete)
        raise ValueError(f"layers that lack parts can't be written: {names}. Filter them out.")
    tensors, broken = stacked(layers)
    if broken:
        why = next(iter(broken.values()))
        raise ValueError(f"stacks that lack matrices can't be written: {why}. Filter them out.")
    write_tensors(path, tensors, table.to_batches(), {}, overwrite=overwrite)


def source_metadata(relation: Any) -> dict[str, str]:
    """What a relation's source says beside its tensors, as far as safetensors can say it: texts."""
    said = getattr(relation, "metadata", {})
    return said if all(isinstance(value, str) for value in said.values()) else {}


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Tensors,
    batches: Iterable[pa.RecordBatch],
    metadata: dict[str, str],
    *,
    overwrite: bool,
) -> None:
    """Write the announced tensors from batches in any order, holding one batch at a time."""
    writer = _core.TensorWriter.safetensors(Path(path), tensors, metadata, overwrite)
    try:
        for batch in batches:
            writer.write(batch)
        writer.finish()
    finally:
        writer.abort()


def dequantize_to_safetensors(
    quantized: Scan,
    path: str | os.PathLike[str],
    *,
    dtype: Dtype,
    threads: int | None,
    overwrite: bool,
    progress: bool | ProgressCallback = False,
) -> list[dict[str, Any]]:
    """Write a quantized relation as a checkpoint; return what had to be left out, as error rows.

    Which layers there are is read without their codes. A row that can't be decoded after all makes
    the file be written again without its layer, which is rare.
    """

    def write(layers: list[Layer], batches: Iterable[pa.RecordBatch]) -> None:
        tensors, _ = stacked(layers)
        write_tensors(path, tensors, batches, source_metadata(quantized), overwrite=overwrite)

    return dequantized(quantized, dtype, threads, write, progress)


def dequantized(
    quantized: Scan,
    dtype: Dtype,
    threads: int | None,
    write: Callable[[list[Layer], Iterable[pa.RecordBatch]], None],
    progress: bool | ProgressCallback = False,
) -> list[dict[str, Any]]:
    """Have the layers of a quantized relation written from their decoded rows.

    `write` is called with the layers and their batches, and again with fewer where some can't be
    decoded. Returns these, as error rows.
    """
    reader = quantized.without_data()
    layers = list(layers_of(pa.Table.from_batches(list(reader), reader.schema)))
    for layer in layers:
        if dtype == "F32" and layer.scheme != "none":
            layer.dtype = "F32"
    left_out = [_incomplete(layer) for layer in layers if not layer.is_complete]
    layers = [layer for layer in layers if layer.is_complete]
    layers, broken = _whole_stacks(layers)
    left_out += broken
    with counted(progress, len(layers)) as count:
        while True:
            stream = dequantize_stream(
                quantized, dtype=dtype, threads=threads, continue_on_error=True
            )
            wanted = pa.array([layer.name for layer in layers], pa.string())
            try:
                write(layers, count(_checked(stream, wanted)))
            except _UndecodableError as error:
                bad = {row["layer_name"] for row in error.rows}
                left_out += error.rows
                layers = [layer for layer in layers if layer.name not in bad]
                layers, broken = _whole_stacks(layers)
                left_out += broken
                continue
            return left_out


def _whole_stacks(layers: list[Layer]) -> tuple[list[Layer], list[dict[str, Any]]]:
    """The layers without those of stacks that are not whole, and these as error rows."""
    _, broken = stacked(layers)
    rows = [
        {
            "layer_name": name,
            "error_code": "incomplete_layer",
            "error_message": f"layer '{name}' is good, but {why}.",
        }
        for name, why in broken.items()
    ]
    return [layer for layer in layers if layer.name not in broken], rows


class _UndecodableError(Exception):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        super().__init__()
        self.rows = rows


def _checked(stream: Iterable[pa.RecordBatch], wanted: pa.Array) -> Iterator[pa.RecordBatch]:
    """The rows of the wanted layers; once all are read, raise where one could not be decoded."""
    bad: list[dict[str, Any]] = []
    for found in stream:
        batch = named(found, wanted)
        failed = pa.record_batch(_core.select(batch, batch, True))
        if failed.num_rows:
            bad += failed.drop_columns(["data"]).to_pylist()
        if not bad:
            yield batch
    if bad:
        raise _UndecodableError(bad)


def _incomplete(layer: Layer) -> dict[str, Any]:
    message = (
        f"layer '{layer.name}' ({layer.dtype} {layer.shape}): only {layer.found} of its "
        f"{layer.parts} parts are good. See the others."
    )
    return {
        "layer_name": layer.name,
        "error_code": "incomplete_layer",
        "error_message": message,
    }
