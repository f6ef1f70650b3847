"""Meaning for relations that are read batch by batch: columns that say it, and stacks cut apart."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pyarrow as pa

from arrowquant import _core
from arrowquant._model.meaning import Meaning
from arrowquant._model.tensor import Tensor


@dataclass
class Annotations:
    """What the layers of a relation mean, by name."""

    by_name: dict[str, Meaning] = field(default_factory=dict)
    has_reasons: bool = False
    has_stacks: bool = False

    @staticmethod
    def of(
        tensors: Sequence[Tensor],
        meanings: Sequence[Meaning],
        *,
        any_reasons: bool = False,
        any_stacks: bool = False,
    ) -> Annotations:
        """The annotations of these tensors; the flags are for columns that others have."""
        named = {tensor.name: meaning for tensor, meaning in zip(tensors, meanings, strict=True)}
        return Annotations(
            named,
            any_reasons or any(meaning.keep_reason is not None for meaning in meanings),
            any_stacks or any(meaning.stack is not None for meaning in meanings),
        )

    def schema(self, schema: pa.Schema) -> pa.Schema:
        """The schema with the columns that say it."""
        for name in self._texts():
            schema = schema.append(pa.field(name, pa.string()))
        return pa.schema(_core.stacks_schema(schema)) if self.has_stacks else schema

    def complete(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """The batch with those columns, and a row for each matrix of its stacks."""
        nothing = Meaning("other")
        found = [self.by_name.get(name, nothing) for name in batch["layer_name"].to_pylist()]
        for name in self._texts():
            values = pa.array([getattr(meaning, name) for meaning in found], pa.string())
            batch = batch.append_column(name, values)
        if self.has_stacks:
            stacks = [meaning.stack for meaning in found]
            batch = pa.record_batch(_core.split_stacks(batch, stacks))
        return batch

    def _texts(self) -> list[str]:
        return ["role", *(("keep_reason", "companion_of") if self.has_reasons else ())]
