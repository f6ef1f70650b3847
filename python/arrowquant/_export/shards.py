"""Tensors in safetensors files of bounded size, with the index that Hugging Face's tools read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from arrowquant import _core
from arrowquant._files import replacing
from arrowquant._inputs import named_runs

Tensor = tuple[str, str, list[int]]
"""Name, dtype, shape."""


def write(
    folder: Path,
    groups: Sequence[list[Tensor]],
    batches: Iterable[pa.RecordBatch],
    most: int,
    *,
    metadata: dict[str, str],
    stem: str = "model",
    is_indexed: bool = False,
) -> None:
    """Write tensors from rows `layer_name, data, part_offset` that come in any order.

    The tensors of a group stay in one file. One file alone is `model.safetensors`, without an
    index unless it is asked for.
    """
    shards = _shards(groups, most)
    names = [_name(stem, index, len(shards)) for index in range(len(shards))]
    writers = [
        _core.TensorWriter.safetensors(folder / name, tensors, metadata, True)
        for name, tensors in zip(names, shards, strict=True)
    ]
    members = [{name for name, _, _ in shard} for shard in shards]
    try:
        for batch in batches:
            for writer, wanted in zip(writers, members, strict=True):
                for own in named_runs(batch, wanted, _tensor_names(batch)):
                    writer.write(own)
        for writer in writers:
            writer.finish()
    finally:
        for writer in writers:
            writer.abort()
    if len(shards) > 1 or is_indexed:
        _write_index(folder / f"{stem}.safetensors.index.json", shards, names)


def _tensor_names(batch: pa.RecordBatch) -> pa.Array:
    """The tensor that each row is of: a matrix of a stack is of the stack."""
    if "stack_name" not in batch.schema.names:
        return batch["layer_name"]
    return pc.coalesce(batch["stack_name"].cast(pa.string()), batch["layer_name"])


def ahead(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The batches, of which the next is read while one is written."""
    source = iter(batches)
    with ThreadPoolExecutor(1, "arrowquant-read") as thread:
        pending = thread.submit(next, source, None)
        while (batch := pending.result()) is not None:
            pending = thread.submit(next, source, None)
            yield batch


def _shards(groups: Sequence[list[Tensor]], most: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for group in groups:
        own = sum(map(size_of, group))
        if shards[-1] and size + own > most:
            shards.append([])
            size = 0
        shards[-1] += group
        size += own
    return shards


def _name(stem: str, index: int, count: int) -> str:
    number = "" if count == 1 else f"-{index + 1:05}-of-{count:05}"
    return f"{stem}{number}.safetensors"


def _write_index(path: Path, shards: Sequence[list[Tensor]], names: Sequence[str]) -> None:
    weight_map = {
        tensor: name for shard, name in zip(shards, names, strict=True) for tensor, _, _ in shard
    }
    total = sum(size_of(tensor) for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def size_of(tensor: Tensor) -> int:
    """Bytes of a tensor.

    Raises:
        ValueError: They are no whole number.
    """
    name, dtype, shape = tensor
    size = _core.dtype_bytes(dtype, math.prod(shape))
    if size is None:
        raise ValueError(f"tensor '{name}': {dtype} {shape} is no whole number of bytes.")
    return size
