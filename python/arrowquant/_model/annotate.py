"""Meaning for relations that are read batch by batch: columns that say it, and stacks cut apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from arrowquant import _core
from arrowquant._model.meaning import Meaning
from arrowquant._model.tensor import Tensor

_TEXTS = ("role", "keep_reason", "companion_of")
_STACK = {
    "stack_name": pa.string(),
    "stack_index": pa.int64(),
    "stack_shape": pa.large_list(pa.int64()),
    "stack_axis": pa.int8(),
}


@dataclass
class Annotations:
    """What the layers of a relation mean, by name."""

    by_name: dict[str, Meaning] = field(default_factory=dict)
    has_stacks: bool = False

    @staticmethod
    def of(
        tensors: Sequence[Tensor], meanings: Sequence[Meaning], *, any_stacks: bool = False
    ) -> Annotations:
        """The annotations of these tensors; the flag says that another file has stacks."""
        named = {tensor.name: meaning for tensor, meaning in zip(tensors, meanings, strict=True)}
        has_stacks = any(meaning.stack is not None for meaning in meanings)
        return Annotations(named, has_stacks or any_stacks)

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the columns that say it, which are always the same."""
        for name in _TEXTS:
            if name not in schema.names:
                schema = schema.append(pa.field(name, pa.string()))
        if self.has_stacks:
            return pa.schema(_core.stacks_schema(_without_stack(schema)))
        for name, kind in _STACK.items():
            if name not in schema.names:
                schema = schema.append(pa.field(name, kind))
        return schema

    def complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with those columns, and a row for each matrix of its stacks."""
        nothing = Meaning("other")
        found = [self.by_name.get(name, nothing) for name in batch["layer_name"].to_pylist()]
        for name in _TEXTS:
            if name not in batch.schema.names:
                values = pa.array([getattr(meaning, name) for meaning in found], pa.string())
                batch = batch.append_column(name, values)
        if self.has_stacks:
            stacks = [meaning.stack for meaning in found]
            return pa.record_batch(_core.split_stacks(_without_stack(batch), stacks))
        for name, kind in _STACK.items():
            if name not in batch.schema.names:
                batch = batch.append_column(name, pa.nulls(batch.num_rows, kind))
        return batch


def _without_stack(rows: Any) -> Any:
    """A schema or batch without columns of stacks: they are made anew."""
    names = rows.names if isinstance(rows, pa.Schema) else rows.schema.names
    for name in _STACK:
        if name not in names:
            continue
        if isinstance(rows, pa.Schema):
            rows = rows.remove(rows.get_field_index(name))
        else:
            rows = rows.drop_columns([name])
    return rows
