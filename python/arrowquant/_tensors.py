"""Layers as the tensors that they make: parts and matrices of stacks counted."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa


@dataclass(frozen=True)
class Stack:
    """The stack that a layer is a matrix of."""

    name: str
    shape: tuple[int, ...]
    index: int

    def count(self, matrix: Sequence[int]) -> int:
        """How many matrices of that shape it has."""
        return math.prod(self.shape) // max(math.prod(matrix), 1)

    @staticmethod
    def of(row: dict[str, Any]) -> Stack | None:
        """The stack that a row tells of."""
        if row.get("stack_name") is None:
            return None
        return Stack(row["stack_name"], tuple(row["stack_shape"]), row["stack_index"])


@dataclass
class Layer:
    """A layer, as its rows tell."""

    name: str
    dtype: str
    shape: list[int]
    scheme: str | None
    parts: int
    found: int
    source_file: str | None
    stack: Stack | None = None
    bytes: int = 0

    @property
    def is_complete(self) -> bool:
        """Whether all its parts are there."""
        return self.found == self.parts

    @property
    def tensor(self) -> tuple[str, str, list[int]]:
        """Name, dtype and shape."""
        return self.name, self.dtype, self.shape


_TOLD = ["layer_name", "dtype", "shape", "scheme", "part_count", "part_index", "layer_shape"]
STACK_COLUMNS = ("stack_name", "stack_index", "stack_shape")


def layers_of(table: pa.Table) -> Iterator[Layer]:
    """The layers of a relation's rows, each once, with its parts counted."""
    told = (*_TOLD, "source_file", *STACK_COLUMNS)
    names = [name for name in told if name in table.schema.names]
    known: dict[tuple[str | None, str], Layer] = {}
    layers = []
    for row in table.select(names).to_pylist():
        count, key = row.get("part_count") or 1, (row.get("source_file"), row["layer_name"])
        if count > 1 and key in known:
            known[key].found += 1
            continue
        layer = Layer(
            row["layer_name"],
            row["dtype"],
            row["layer_shape"] if count > 1 else row["shape"],
            row.get("scheme"),
            count,
            1,
            row.get("source_file"),
            Stack.of(row),
        )
        known[key] = layer
        layers.append(layer)
    yield from layers


def stacked(layers: Iterable[Layer]) -> tuple[list[tuple[str, str, list[int]]], dict[str, str]]:
    """The tensors that layers make, and by name the layers of stacks that can't be made.

    The matrices of a stack make one tensor. Of a stack that can't be made, the reason is told.
    """
    tensors: list[tuple[str, str, list[int]]] = []
    members: dict[str, list[Layer]] = {}
    for layer in layers:
        if layer.stack is None:
            tensors.append(layer.tensor)
        else:
            members.setdefault(layer.stack.name, []).append(layer)
    broken: dict[str, str] = {}
    for name, matrices in members.items():
        why = _why_broken(name, matrices)
        if why is None and (stack := matrices[0].stack) is not None:
            tensors.append((name, matrices[0].dtype, list(stack.shape)))
        else:
            broken |= {layer.name: why or "" for layer in matrices}
    return tensors, broken


def _why_broken(name: str, matrices: list[Layer]) -> str | None:
    """Why matrices are no whole stack; None where they are."""
    first = matrices[0]
    assert first.stack is not None
    count = first.stack.count(first.shape)
    found = {layer.stack.index for layer in matrices if layer.stack is not None}
    if found != set(range(count)) or len(matrices) != count:
        return f"'{name}' has {len(found)} of its {count} matrices"
    dtypes = sorted({layer.dtype for layer in matrices})
    if len(dtypes) > 1:
        return (
            f"'{name}' has matrices of {' and '.join(dtypes)}: kept ones stay as they were. Write "
            "them all in their own type (dtype='source')"
        )
    return None
