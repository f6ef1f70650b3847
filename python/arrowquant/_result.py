"""Results: a relation and, row for row beside it, its error table."""

from __future__ import annotations

from functools import cached_property
from typing import Any, TypeAlias

import pyarrow as pa

from arrowquant import _core
from arrowquant._display import arrow_html

_SHOWN = ("layer_name", "dtype", "shape", "scheme", "bits_per_weight", "snr_db", "error_message")

Tabular: TypeAlias = "pa.Table | pa.RecordBatch"
"""RecordBatch in gives RecordBatches, anything else Tables with the input's batch boundaries; of a
long stream of tiny batches, many come together."""


def _table(tabular: Tabular) -> pa.Table:
    return tabular if isinstance(tabular, pa.Table) else pa.Table.from_batches([tabular])


class _Pair:
    """A relation, its errors, and both as one relation for engines that take one table."""

    def __init__(self, batches: Any, schemas: Any, *, single: bool) -> None:
        self._parts: Any = (batches, schemas, single)

    # What nobody asks for is not turned into pyarrow's objects.
    @cached_property
    def _left(self) -> Tabular:
        return self._tabular(0)

    @cached_property
    def errors(self) -> Tabular:
        """The error table, row for row beside the relation."""
        return self._tabular(1)

    @cached_property
    def failed(self) -> pa.Table:
        """The failed rows alone, with what was asked of them and why they failed."""
        return _table(self._tabular(2))

    def _tabular(self, kind: int) -> Tabular:
        parts, schemas, single = self._parts
        batches = [pa.record_batch(batch) for batch in parts[kind]]
        if single:
            return batches[0]
        return pa.Table.from_batches(batches, None if batches else pa.schema(schemas[kind]))

    def __getstate__(self) -> dict[str, Any]:
        """Return what can be pickled: pyarrow's objects."""
        return {"_left": self._left, "errors": self.errors, "failed": self.failed}

    @property
    def succeeded(self) -> pa.Table:
        """The rows that did not fail."""
        if self.failed.num_rows == 0:
            return _table(self._left)
        left, errors = _table(self._left), _table(self.errors)
        pairs = zip(left.to_batches(), errors.to_batches(), strict=True)
        good = [pa.record_batch(_core.select(one, other, False)) for one, other in pairs]
        return pa.Table.from_batches(good, left.schema)

    @property
    def schema(self) -> pa.Schema:
        """The schema of the one relation."""
        left, errors = self._left.schema, self.errors.schema
        return pa.schema([*left, *list(errors)[2:]], left.metadata)

    def to_table(self) -> pa.Table:
        """The one relation: the relation's columns, then the `error_` columns. No copy."""
        left, errors, schema = _table(self._left), _table(self.errors), self.schema
        batches = zip(left.to_batches(), errors.to_batches(), strict=True)
        return pa.Table.from_batches(
            [
                pa.RecordBatch.from_arrays([*one.columns, *other.columns[2:]], schema=schema)
                for one, other in batches
            ],
            schema,
        )

    def __arrow_c_schema__(self) -> object:
        """Return a PyCapsule of the one relation's Arrow C schema."""
        return self.schema.__arrow_c_schema__()

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        """Return a PyCapsule of the one relation as an Arrow C stream, as often as wanted."""
        return self.to_table().__arrow_c_stream__(requested_schema)

    def __len__(self) -> int:
        return int(self._left.num_rows)

    def __repr__(self) -> str:
        failed = self.failed.num_rows
        text = f"{type(self).__name__}: {len(self) - failed} of {len(self)} rows succeeded"
        if failed:
            codes = self.failed["error_code"].value_counts().to_pylist()
            text += ", failed: " + ", ".join(f"{c['counts']} {c['values']}" for c in codes)
        return text

    def _repr_html_(self) -> str:
        return arrow_html(repr(self), self.to_table(), _SHOWN)

    def __dir__(self) -> list[str]:
        return [name for name in super().__dir__() if not name.startswith("_") or "__" in name]


class QuantizationResult(_Pair):
    """What `aq.quantize` returns.

    It speaks the Arrow PyCapsule interface as the one relation, as often as wanted.

    Attributes:
        quantized: The quantized relation, row for row with the input.
        errors: `row_index, layer_name, error_code, error_message, error_element, error_count`,
            row for row beside it; `error_code` is null where the row succeeded.
        succeeded: The rows of `quantized` that did not fail.
        failed: The failed rows alone, with what was asked of them and why they failed.
    """

    @property
    def quantized(self) -> Tabular:
        """The quantized relation, row for row with the input."""
        return self._left


class DequantizationResult(_Pair):
    """What `aq.dequantize` returns: a weights relation again, and its errors.

    Attributes:
        weights: `layer_name, dtype, shape, data` and the carried columns, row for row with the
            input; `data` is null where the row failed, then or before.
        errors: Row for row beside it.
        succeeded: The rows of `weights` that did not fail.
        failed: The failed rows alone.
    """

    @property
    def weights(self) -> Tabular:
        """The weights relation, row for row with the input."""
        return self._left
