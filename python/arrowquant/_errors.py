"""What arrowquant raises and warns of."""

from __future__ import annotations

from typing import Any

import pyarrow as pa


class QuantizationError(ValueError):
    """Rows failed and `continue_on_error` was off.

    The message begins with the code and the layer of the first failed row. `failed` is a
    `pyarrow.Table` of all that failed, with the columns `row_index, layer_name, shape, dtype,
    scheme, group_size, is_symmetric, error_code, error_message, error_element, error_count` and
    the carried ones.
    """

    failed: pa.Table

    def __init__(self, message: str, failed: Any) -> None:
        super().__init__(message)
        batches = None if isinstance(failed, pa.Table) else [pa.record_batch(failed)]
        self.failed = failed if batches is None else pa.Table.from_batches(batches)

    def __reduce__(self) -> tuple[type[QuantizationError], tuple[str, pa.Table]]:
        """Keep the table when the exception crosses a process boundary."""
        return type(self), (str(self), self.failed)


class QuantizationWarning(UserWarning):
    """Something was left out of a dictionary, or a pattern matched nothing.

    `result` is the dictionary that the call would have returned: where warnings are errors, it is
    reached through the raised warning.
    """

    result: Any

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
