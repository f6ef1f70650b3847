"""What arrowquant raises and warns of."""

from __future__ import annotations

from pathlib import Path
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


class OtherDatasetError(ValueError):
    """A directory holds a dataset that another call began."""


class CheckpointStoppedError(QuantizationError):
    """A checkpoint's job met a failed row, and `continue_on_error` was off.

    `finished` of `layers` layers are kept in `destination`; `reason` is the row's own message.
    """

    finished: int
    layers: int
    destination: Path
    reason: str

    def __init__(
        self, failed: pa.Table, finished: int, layers: int, destination: Path, reason: str
    ) -> None:
        super().__init__(reason, failed)
        self.finished, self.layers = finished, layers
        self.destination, self.reason = destination, reason

    def __str__(self) -> str:
        return f"{self.for_people('continue_on_error=True')} {self.reason}"

    def for_people(self, option: str) -> str:
        """Where it stopped, what is kept, and with which option it goes on."""
        name, code = (self.failed[column][0].as_py() for column in ("layer_name", "error_code"))
        return (
            f"stopped at layer {name} ({code}): {self.finished} of {self.layers} layers are "
            f"finished and kept in {self.destination}; run again with {option} to go on."
        )

    def __reduce__(self) -> tuple[Any, ...]:
        """Keep everything when the exception crosses a process boundary."""
        return type(self), (
            self.failed, self.finished, self.layers, self.destination, self.reason,
        )  # fmt: skip


class SeveralCheckpointsError(ValueError):
    """A directory holds several checkpoints, and nobody said which is meant.

    `checkpoints` is a `pyarrow.Table` of them: `variant`, what `variant=` calls it, `files` and
    `bytes`.
    """

    def __init__(self, message: str, checkpoints: pa.Table) -> None:
        super().__init__(message)
        self.checkpoints = checkpoints

    def __reduce__(self) -> tuple[type[SeveralCheckpointsError], tuple[str, pa.Table]]:
        """Keep the table when the exception crosses a process boundary."""
        return type(self), (str(self), self.checkpoints)


class QuantizationWarning(UserWarning):
    """Something was left out of a dictionary, or a pattern matched nothing.

    `result` is the dictionary that the call would have returned: where warnings are errors, it is
    reached through the raised warning.
    """

    result: Any

    def __init__(self, message: str, result: Any = None) -> None:
        super().__init__(message)
        self.result = result
