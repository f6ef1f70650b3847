"""Tensors in safetensors files of bounded size, with the index that Hugging Face's tools read."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path

import pyarrow as pa

from arrowquant import _core
from arrowquant._files import replacing
from arrowquant._inputs import named

Tensor = tuple[str, str, list[int]]
"""Name, dtype, shape."""


def write(
    folder: Path, groups: Sequence[list[Tensor]], batches: Iterable[pa.RecordBatch], most: int
) -> None:
    """Write tensors from rows `layer_name, data, part_offset` that come in any order.

    The tensors of a group stay in one file. One file alone is `model.safetensors`, without an
    index.
    """
    shards = _shards(groups, most)
    names = [_name(index, len(shards)) for index in range(len(shards))]
    writers = [
        _core.SafetensorsWriter(folder / name, tensors, True)
        for name, tensors in zip(names, shards, strict=True)
    ]
    members = [pa.array([name for name, _, _ in shard], pa.string()) for shard in shards]
    try:
        for batch in batches:
            for writer, wanted in zip(writers, members, strict=True):
                own = named(batch, wanted)
                if own.num_rows:
                    writer.write(own)
        for writer in writers:
            writer.finish()
    finally:
        for writer in writers:
            writer.abort()
    if len(shards) > 1:
        _write_index(folder, shards, names)


def _shards(groups: Sequence[list[Tensor]], most: int) -> list[list[Tensor]]:
    shards: list[list[Tensor]] = [[]]
    size = 0
    for group in groups:
        own = sum(map(_bytes, group))
        if shards[-1] and size + own > most:
            shards.append([])
            size = 0
        shards[-1] += group
        size += own
    return shards


def _name(index: int, count: int) -> str:
    return "model.safetensors" if count == 1 else f"model-{index + 1:05}-of-{count:05}.safetensors"


def _write_index(folder: Path, shards: Sequence[list[Tensor]], names: Sequence[str]) -> None:
    weight_map = {
        tensor: name for shard, name in zip(shards, names, strict=True) for tensor, _, _ in shard
    }
    total = sum(_bytes(tensor) for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    with replacing(folder / "model.safetensors.index.json") as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n", "utf-8")


def _bytes(tensor: Tensor) -> int:
    _, dtype, shape = tensor
    return math.prod(shape) * _core.dtype_bits(dtype) // 8
